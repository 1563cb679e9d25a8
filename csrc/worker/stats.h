/* The shared counters as a data plane process uses them: mapping, and settling what is dead.
 *
 * Called by runtime.c before the sandbox is entered and at the end. Layout: edge.h and
 * snapshot/stats.c. Never sums anything: readers do. */
#ifndef EDGE_WORKER_STATS_H
#define EDGE_WORKER_STATS_H

#include "include/edge.h"

struct stats {
    uint8_t *bytes;
    uint64_t size;
    const struct edge_stats_header *header;
    int fd; /* borrowed */
};

int stats_map(struct stats *stats, int fd, struct edge_error *err);
void stats_unmap(struct stats *stats);
struct edge_lane *stats_lane(const struct stats *stats, uint32_t lane);
struct edge_route_cell *stats_route_cells(const struct stats *stats, uint32_t lane);
struct edge_upstream_cell *stats_upstream_cells(const struct stats *stats, uint32_t lane);
/* Pages that the cells of route slots below `slots` fill by half become huge ones. May be called
 * while the lane's worker counts: it then waits for its page, once. */
void stats_gather(const struct stats *stats, uint32_t lane, uint32_t slots);
/* These lanes become ours; what was open in them is counted as lost, and nothing is in flight. */
int stats_claim(const struct stats *stats, uint32_t first, uint32_t count, struct edge_error *err);
/* The same for the lanes, other than ours, whose owners are gone. */
void stats_settle_dead(const struct stats *stats, uint32_t first, uint32_t count);
void stats_leave(const struct stats *stats, uint32_t first, uint32_t count);

#endif
