/* A worker's proxy as a whole: making it, its tick, draining it. Called by worker/worker.c. */
#include "proxy/proxy.h"

#include <arpa/inet.h>
#include <time.h>

int proxy_init(struct proxy *proxy, struct loop *loop, uint64_t seed)
{
    proxy->loop = loop;
    proxy->random[0] = seed | 1;
    proxy->random[1] = seed * 0x9e3779b97f4a7c15u + 0x1234567;
    list_init(&proxy->downstreams);
    list_init(&proxy->upstreams);
    pool_init(&proxy->pool);
    proxy->date_s = -1;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    wheel_init(&proxy->wheel, (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000);
    return balance_init(&proxy->balance, proxy_random(proxy));
}

void proxy_release(struct proxy *proxy)
{
    balance_release(&proxy->balance);
    blocks_release(&proxy->blocks);
    arena_cache_release(&proxy->arenas);
}

/* xorshift128+: request ids must differ, they need not be secret. */
uint64_t proxy_random(struct proxy *proxy)
{
    uint64_t a = proxy->random[0], b = proxy->random[1];
    proxy->random[0] = b;
    a ^= a << 23;
    proxy->random[1] = a ^ b ^ (a >> 17) ^ (b >> 26);
    return proxy->random[1] + b;
}

void proxy_tick(struct proxy *proxy)
{
    uint64_t now_ns = loop_now_ns(proxy->loop);
    int64_t second = (int64_t)(now_ns / 1000000000);
    if (second != proxy->date_s) {
        struct timespec wall;
        proxy->date_s = second;
        clock_gettime(CLOCK_REALTIME, &wall);
        proxy->wall_offset_ns = (int64_t)wall.tv_sec * 1000000000 + wall.tv_nsec - (int64_t)now_ns;
        h1_format_date(wall.tv_sec, proxy->date);
    }
    wheel_advance(&proxy->wheel, now_ns / 1000000);
}

void proxy_end_idle(struct proxy *proxy)
{
    proxy->closing = proxy->ending = true;
    h1_downstream_end_idle(proxy);
}

void proxy_cut(struct proxy *proxy, uint32_t linger_ms)
{
    proxy->closing = proxy->ending = true;
    h1_downstream_cut(proxy, linger_ms);
    h1_upstream_abort_all(proxy);
}

void proxy_name_client(struct exchange_client *client, int fd)
{
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    if (getpeername(fd, (struct sockaddr *)&peer, &length) < 0)
        return;
    if (peer.ss_family == AF_INET6) {
        memcpy(client->address, &((struct sockaddr_in6 *)&peer)->sin6_addr, 16);
    } else {
        client->address[10] = client->address[11] = 0xff;
        memcpy(client->address + 12, &((struct sockaddr_in *)&peer)->sin_addr, 4);
    }
    bool v4 = IN6_IS_ADDR_V4MAPPED((struct in6_addr *)client->address);
    inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? client->address + 12 : client->address, client->text,
              sizeof client->text);
    client->text_length = (uint8_t)strlen(client->text);
}
