/* Layout of the stats memory: header, lanes, route cells, upstream cells.
 *
 * Called by the holder's first start through cffi and by worker/ when it maps the memory. The
 * memory is sparse: nothing here touches more than the header's page. */
#include <stddef.h>

#include "include/edge.h"

_Static_assert(sizeof(struct edge_lane) % 64 == 0, "lanes do not share cache lines");

static uint64_t align_page(uint64_t bytes)
{
    return (bytes + 4095) & ~(uint64_t)4095;
}

static struct edge_stats_header header_for(uint32_t lanes)
{
    struct edge_stats_header header = {
        .magic = EDGE_STATS_MAGIC,
        .layout = EDGE_STATS_LAYOUT,
        .lane_count = lanes,
        .lanes_offset = 4096,
    };

    header.route_cells_offset =
        align_page(header.lanes_offset + lanes * (uint64_t)sizeof(struct edge_lane));
    header.upstream_cells_offset =
        align_page(header.route_cells_offset +
                   lanes * (uint64_t)EDGE_ROUTE_SLOTS * sizeof(struct edge_route_cell));
    header.total_bytes =
        align_page(header.upstream_cells_offset +
                   lanes * (uint64_t)EDGE_UPSTREAM_SLOTS * sizeof(struct edge_upstream_cell));
    return header;
}

uint64_t edge_stats_bytes(uint32_t lanes)
{
    return header_for(lanes).total_bytes;
}

int edge_stats_format(uint8_t *memory, uint64_t size, uint32_t lanes)
{
    if (lanes == 0)
        return EDGE_ERR_INVALID;
    if (size < edge_stats_bytes(lanes))
        return EDGE_ERR_TRUNCATED;
    if ((uintptr_t)memory % 8 != 0)
        return EDGE_ERR_INVALID;
    *(struct edge_stats_header *)(void *)memory = header_for(lanes);
    return EDGE_OK;
}
