/* The stats memory: parts do not overlap, the header says where they are. */
#include "snapshot/stats.c"

#include <stdlib.h>

#include "tap.h"

int main(void)
{
    uint64_t size = edge_stats_bytes(2);
    uint8_t *memory = calloc(1, size);
    struct edge_stats_header *header = (void *)memory;

    IS(edge_stats_format(memory, size, 2), EDGE_OK, "formatted");
    IS(edge_stats_format(memory, size, 3), EDGE_ERR_TRUNCATED, "more lanes than memory");
    IS(edge_stats_format(memory, size, 0), EDGE_ERR_INVALID, "no lanes");
    IS(edge_stats_format(memory + 1, size, 2), EDGE_ERR_INVALID, "not aligned");
    IS(header->lane_count, 2, "lanes");
    IS(header->total_bytes, size, "size");
    OK(header->lanes_offset + 2 * sizeof(struct edge_lane) <= header->route_cells_offset, "lanes");
    OK(header->route_cells_offset + 2 * EDGE_ROUTE_SLOTS * sizeof(struct edge_route_cell) <=
           header->upstream_cells_offset,
       "route cells");
    OK(header->upstream_cells_offset +
               2 * EDGE_UPSTREAM_SLOTS * sizeof(struct edge_upstream_cell) <=
           size,
       "upstream cells");
    free(memory);
    return tap_done();
}
