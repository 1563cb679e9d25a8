/* Counting, and what a reason means for the packet. Called by xdp_edge.c: once as a packet comes
 * in, once as it leaves, so that offered = passed + dropped + transmitted holds at rest.
 */
#ifndef EDGE_COUNT_H
#define EDGE_COUNT_H

#include "maps.h"

EDGE_INLINE void count_packet(uint32_t reason, uint64_t bytes)
{
    struct edge_count *count = bpf_map_lookup_elem(EDGE_MAP(edge_counts), &reason);
    if (!count)
        return;
    count->packets++; /* one copy for each CPU: no atomics */
    count->bytes += bytes;
}

EDGE_INLINE int count_verdict(uint32_t reason, uint64_t bytes)
{
    count_packet(reason, bytes);
    if (reason == EDGE_TRANSMIT)
        return XDP_TX;
    return reason < EDGE_DROP_MALFORMED ? XDP_PASS : XDP_DROP;
}

#endif
