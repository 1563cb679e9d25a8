/* The way of a packet: count, one generation, parse, VIP, dead-man, malformed, rules, bucket,
 * count.
 *
 * Attached to each interface by edge/xdp/plane.py. The commit word is read once and handed down:
 * no packet sees two generations. Nothing here forgets to count: every return goes through
 * count_verdict(). Cheap and stateless steps stand before those that touch a source's state.
 */
#include "count.h"
#include "parse.h"
#include "rate.h"
#include "source_rules.h"
#include "vip.h"

/* Has everybody who serves been silent for too long? */
EDGE_INLINE int check_stale(uint64_t dead_man_ns)
{
    uint64_t now = bpf_ktime_get_coarse_ns();
    volatile struct edge_heartbeat *heart = EDGE_VALUE(edge_heartbeat);
    uint64_t holder = heart->holder_ns, data = heart->data_ns;
    uint64_t stamp = holder > data ? holder : data;
    return now > stamp && now - stamp > dead_man_ns;
}

/* 0, or the reason why this source is over its limits. */
EDGE_INLINE uint32_t check_rate(const struct edge_packet *p, const struct edge_rate *rate, int node)
{
    int connects = p->flags & EDGE_PACKET_SYN && rate->connection_interval;
    if (!rate->packet_interval && !connects)
        return 0;
    struct edge_bucket_key key = {.node = node};
    uint64_t source[2];
    if (p->family == 4) {
        uint32_t bits = ((const uint32_t *)&p->source[1])[1] & rate->mask_v4_be;
        source[0] = 0;
        source[1] = (uint64_t)bits << 32 | 0xffff0000U;
    } else {
        source[0] = p->source[0] & rate->mask_high_be;
        source[1] = p->source[1] & rate->mask_low_be;
    }
    __builtin_memcpy(key.address, source, 16);
    uint64_t now = bpf_ktime_get_coarse_ns() << EDGE_RATE_SHIFT; /* 14 ns: only here */
    struct edge_bucket *bucket = bpf_map_lookup_elem(EDGE_MAP(edge_buckets), &key);
    if (!bucket) {
        struct edge_bucket fresh = {now, now};
        if (rate->packet_interval)
            fresh.packets_paid = rate_first(now, rate->packet_interval);
        if (connects)
            fresh.connections_paid = rate_first(now, rate->connection_interval);
        bpf_map_update_elem(EDGE_MAP(edge_buckets), &key, &fresh, 0);
        return 0;
    }
    if (rate->packet_interval &&
        !rate_take(&bucket->packets_paid, now, rate->packet_interval, rate->packet_slack))
        return EDGE_DROP_PACKETS;
    if (connects && !rate_take(&bucket->connections_paid, now, rate->connection_interval,
                               rate->connection_slack))
        return EDGE_DROP_CONNECTIONS;
    return 0;
}

EDGE_INLINE uint32_t judge(const struct edge_packet *p, const struct edge_settings *settings,
                           uint32_t generation, enum edge_place place)
{
    int node = place == EDGE_PLACE_NODE;
    if (settings->dead_man_ns && check_stale(settings->dead_man_ns))
        return settings->flags & EDGE_SETTING_STALE_DROP ? EDGE_DROP_STALE : EDGE_PASS_STALE;
    if (p->flags & EDGE_PACKET_MALFORMED)
        return EDGE_DROP_MALFORMED;
    /* A first fragment's rest cannot be judged; without it the later ones are never joined. */
    if (p->flags & EDGE_PACKET_FRAGMENT && place == EDGE_PLACE_VIP)
        return EDGE_DROP_FRAGMENT;
    uint32_t rule = rules_find(p, generation, settings, node);
    if (rule == EDGE_RULE_ALLOW)
        return EDGE_PASS_ALLOWED;
    if (rule)
        return EDGE_DROP_DENIED;
    const struct edge_rate *rate = node ? &settings->node : &settings->listener;
    uint32_t over = check_rate(p, rate, node);
    return over ? over : EDGE_PASS_POLICED;
}

int edge_xdp(struct xdp_md *ctx)
{
    uint32_t bytes = bpf_xdp_get_buff_len(ctx);
    count_packet(EDGE_OFFERED, bytes);
    uint64_t commit = EDGE_VALUE(edge_control)->commit;
    if (!commit)
        return count_verdict(EDGE_PASS_IDLE, bytes);
    uint32_t generation = commit & 1;
    struct edge_settings *settings = bpf_map_lookup_elem(EDGE_MAP(edge_settings), &generation);
    if (!settings)
        return count_verdict(EDGE_PASS_IDLE, bytes);

    struct edge_packet packet = {};
    uint8_t *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    if (!parse(&packet, start, end, bytes))
        return count_verdict(EDGE_PASS_OTHER, bytes);
    enum edge_place place = vip_find(&packet, generation, settings->flags);
    if (place == EDGE_PLACE_OTHER)
        return count_verdict(EDGE_PASS_OTHER, bytes);
    return count_verdict(judge(&packet, settings, generation, place), bytes);
}
