/* Pure arithmetic of a source's bucket: no map, no clock, no kernel call, so that it is tested
 * natively too (tests/csrc/bpf/test_rate.c). Called by xdp_edge.c for each judged packet.
 *
 * A bucket is one number, the time until which its source has paid (the generic cell rate
 * algorithm: a token bucket whose tokens are time). A unit costs `interval`; a source may run ahead
 * of the clock by `slack`. All times in 1/16 ns (EDGE_RATE_SHIFT): exact enough for 100 Mpps,
 * and 64 bits last 36 years of uptime.
 */
#ifndef EDGE_RATE_H
#define EDGE_RATE_H

#include "edge_abi.h"

/* How many units several CPUs may overcharge at the same moment before we call a bucket stale. */
#define EDGE_RATE_RACE 256

/* What a new bucket has paid after its first unit. */
static inline __attribute__((always_inline)) uint64_t rate_first(uint64_t now, uint64_t interval)
{
    return now + interval;
}

/* Take one unit: 1 within the limit, 0 over it. Never charges for what it refuses.
 * A lost race with another CPU still charges, by addition. */
static inline __attribute__((always_inline)) int rate_take(uint64_t *paid, uint64_t now,
                                                           uint64_t interval, uint64_t slack)
{
    uint64_t before = *(volatile uint64_t *)paid;
    uint64_t start = before > now ? before : now;
    uint64_t ahead = start - now;
    if (ahead > slack) {
        /* Paid under a slower rate of an older policy: nobody waits for more than today's slack. */
        if (ahead > slack + EDGE_RATE_RACE * interval)
            *(volatile uint64_t *)paid = now + slack + interval;
        return 0;
    }
    if (!__sync_bool_compare_and_swap(paid, before, start + interval))
        __sync_fetch_and_add(paid, interval);
    return 1;
}

#endif
