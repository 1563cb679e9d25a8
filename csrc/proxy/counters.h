/* What an exchange counts, in its worker's lane. Called by proxy/exchange.c and the upstream
 * codec. Plain stores of one writer; the mapping itself is worker/stats.c's. */
#ifndef EDGE_PROXY_COUNTERS_H
#define EDGE_PROXY_COUNTERS_H

#include "proxy/proxy.h"

/* A cell of another generation belongs to what had the slot before: it starts from zero. Only for
 * a slot that the present image gives to this exchange. */
static inline void counters_claim_upstream(struct exchange *exchange)
{
    struct edge_upstream_cell *cell = &exchange->proxy->upstream_cells[exchange->upstream_slot];
    if (cell->generation == exchange->upstream_generation)
        return;
    memset(cell, 0, sizeof *cell);
    cell->generation = exchange->upstream_generation;
}

static inline void counters_claim_route(struct exchange *exchange)
{
    struct edge_route_cell *cell = &exchange->proxy->route_cells[exchange->route_slot];
    if (cell->generation == exchange->route_generation)
        return;
    memset(cell, 0, sizeof *cell);
    cell->generation = exchange->route_generation;
}

/* An exchange that outlived its upstream counts where nobody looks. */
static inline struct edge_upstream_cell *counters_upstream(struct exchange *exchange)
{
    struct edge_upstream_cell *cell = &exchange->proxy->upstream_cells[exchange->upstream_slot];
    return cell->generation == exchange->upstream_generation ? cell : &exchange->proxy->late;
}

static inline void counters_try_ended(struct exchange *exchange)
{
    struct edge_upstream_cell *cell = counters_upstream(exchange);
    uint16_t status = exchange->tries[exchange->tries_count - 1].status;
    if (cell->in_flight > 0)
        COUNT(cell->in_flight, (uint32_t)-1);
    if (status >= 100 && status < 600)
        COUNT(cell->status[status / 100 - 1], 1);
}

static inline void counters_finished(struct exchange *exchange)
{
    struct proxy *proxy = exchange->proxy;
    struct edge_lane *lane = proxy->lane;
    uint64_t us = (loop_now_ns(proxy->loop) - exchange->began_ns) / 1000;
    unsigned bucket = us == 0 ? 0 : 64 - (unsigned)__builtin_clzll(us);
    COUNT(lane->latency[bucket > 31 ? 31 : bucket], 1);
    COUNT(lane->outcomes[exchange->outcome], 1);
    COUNT(lane->in_flight, (uint64_t)-1);
    if (exchange->tunnel)
        COUNT(lane->tunnels, (uint64_t)-1);
    if (!exchange->has_route)
        return;
    struct edge_route_cell *cell = &proxy->route_cells[exchange->route_slot];
    if (cell->generation != exchange->route_generation)
        return;
    COUNT(cell->requests, 1);
    COUNT(cell->bytes_out, exchange->response_bytes);
    if (exchange->status >= 100 && exchange->status < 600)
        COUNT(cell->status[exchange->status / 100 - 1], 1);
}

#endif
