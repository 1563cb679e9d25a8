/* How a client's connection begins and how it ends: accept, close, linger, drain.
 *
 * Called by the worker (accept, the moments of a drain) and by the codec. Never reads a head. */
#include "proxy/h1_downstream.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "match/matcher.h"

void h1_downstream_accept(struct proxy *proxy, uint32_t listener_slot, int fd)
{
    const struct snapshot_view *view = proxy->view;
    int32_t index = view ? match_listener(&view->image, listener_slot) : -1;
    struct h1_downstream *down = index < 0 ? 0 : calloc(1, sizeof *down);
    if (!down) {
        if (index >= 0)
            COUNT(proxy->lane->memory_errors, 1);
        close(fd);
        return;
    }
    down->proxy = proxy;
    down->state = DOWN_HEAD;
    down->settings_version = ~0ull;
    down->client.listener_slot = listener_slot;
    proxy_name_client(&down->client, fd);
    h1_downstream_read_settings(down);
    h1_sender_init(&down->sender, &down->transport, &proxy->blocks);
    deadline_init(&down->deadline, &proxy->wheel, h1_downstream_passed);
    if (view->image.listeners[index].transport == EDGE_TRANSPORT_TLS) {
        struct tls_server *server = proxy->tls ? proxy->tls[listener_slot] : 0;
        down->client.tls = 1;
        if (!server || transport_accept_tls(&down->transport, proxy->loop, fd,
                                            &h1_downstream_handlers, server) < 0) {
            COUNT(proxy->lane->memory_errors, 1);
            close(fd);
            free(down);
            return;
        }
    } else {
        transport_accept_plain(&down->transport, proxy->loop, fd, &h1_downstream_handlers);
    }
    list_push_back(&proxy->downstreams, &down->link);
    COUNT(proxy->lane->connections, 1);
    COUNT(proxy->lane->connections_open, 1);
    deadline_set(&down->deadline, proxy_now_ms(proxy), down->head_ms);
    h1_downstream_receive(down);
}

void h1_downstream_drop(struct h1_downstream *down)
{
    if (down->state == DOWN_CLOSED)
        return;
    down->state = DOWN_CLOSED;
    deadline_release(&down->deadline);
    transport_close(&down->transport);
}

void h1_downstream_fail(struct h1_downstream *down, uint8_t kind)
{
    if (kind == FAILURE_MEMORY && !down->starved)
        COUNT(down->proxy->lane->memory_errors, 1);
    if (down->state == DOWN_EXCHANGE)
        exchange_downstream_failed(&down->exchange, kind);
    h1_downstream_drop(down);
}

void h1_downstream_linger(struct h1_downstream *down, uint32_t ms)
{
    down->state = DOWN_LINGER;
    transport_shutdown(&down->transport);
    deadline_set(&down->deadline, proxy_now_ms(down->proxy), ms);
    h1_downstream_receive(down);
}

void h1_downstream_closed(struct transport *transport)
{
    struct h1_downstream *down = LIST_OWNER(transport, struct h1_downstream, transport);
    struct proxy *proxy = down->proxy;
    list_remove(&down->link);
    h1_sender_release(&down->sender);
    h1_reader_release(&down->reader, &proxy->blocks);
    blocks_give(&proxy->blocks, down->stash);
    blocks_give(&proxy->blocks, down->ahead);
    COUNT(proxy->lane->connections_open, (uint64_t)-1);
    free(down);
}

/* ---- the moments of a drain --------------------------------------------------------------- */

static bool idle(const struct h1_downstream *down)
{
    return down->state == DOWN_HEAD && down->stash_length == 0 &&
           (!down->client.tls || down->secured);
}

/* A request that is here already, and only not yet read, is served. */
static bool has_request(const struct h1_downstream *down)
{
    uint8_t byte;
    return recv(down->transport.socket.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

void h1_downstream_end_idle(struct proxy *proxy)
{
    LIST_EACH(at, after, &proxy->downstreams)
    {
        struct h1_downstream *down = LIST_OWNER(at, struct h1_downstream, link);
        if (idle(down) && !has_request(down))
            h1_downstream_linger(down, LINGER_MS);
    }
}

void h1_downstream_cut(struct proxy *proxy, uint32_t linger_ms)
{
    uint64_t latest = proxy_now_ms(proxy) + linger_ms;
    LIST_EACH(at, after, &proxy->downstreams)
    {
        struct h1_downstream *down = LIST_OWNER(at, struct h1_downstream, link);
        bool tunnel = down->state == DOWN_EXCHANGE && down->exchange.tunnel;
        if (linger_ms > 0 && tunnel) /* its client speaks at any time: a close now would reset it */
            exchange_downstream_failed(&down->exchange, FAILURE_GRACE);
        if (linger_ms > 0 && (tunnel || idle(down)))
            h1_downstream_linger(down, linger_ms);
        else if (linger_ms == 0 || down->state != DOWN_LINGER)
            h1_downstream_fail(down, FAILURE_GRACE);
        else if (down->deadline.due_ms > latest)
            deadline_set(&down->deadline, proxy_now_ms(proxy), linger_ms);
    }
}
