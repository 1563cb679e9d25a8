/* Timers of one worker: a hierarchical wheel, 6 levels of 64 slots, 1 ms a tick.
 *
 * Set and cancel are O(1), a timer moves down at most five times. The clock is an argument
 * (milliseconds of CLOCK_MONOTONIC, loop_now_ns() / 1000000 in a worker, made up in tests): the
 * wheel never reads one and never sleeps. One thread only. A timer's memory is its owner's, who
 * must cancel it before freeing it. */
#ifndef EDGE_BASE_WHEEL_H
#define EDGE_BASE_WHEEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

#define WHEEL_LEVELS 6
#define WHEEL_SLOTS 64

struct wheel_timer {
    struct list link;
    uint64_t due_ms;
    void (*fired)(struct wheel_timer *timer);
    uint8_t level; /* where it is linked, for the occupancy bit */
    uint8_t slot;
    uint8_t armed;
};

/* occupied bit s of level l is set exactly when slots[l][s] is not empty. */
struct wheel {
    uint64_t now_ms;
    uint64_t occupied[WHEEL_LEVELS];
    struct list slots[WHEEL_LEVELS][WHEEL_SLOTS];
    struct list due; /* set for a time that had passed already */
};

void wheel_init(struct wheel *wheel, uint64_t now_ms);

/* Once before the first wheel_set(); zeroed memory with `fired` filled in will not do. */
void wheel_timer_init(struct wheel_timer *timer, void (*fired)(struct wheel_timer *timer));

/* Arm, or move when armed. due_ms is absolute; the past fires at the next wheel_advance(). Ahead
 * by more than 397 days means 397 days. */
void wheel_set(struct wheel *wheel, struct wheel_timer *timer, uint64_t due_ms);

/* Harmless when it is not armed. After it, fired() does not come, not even when the timer was
 * due in the very batch that is being run. */
void wheel_cancel(struct wheel *wheel, struct wheel_timer *timer);

static inline bool wheel_armed(const struct wheel_timer *timer)
{
    return timer->armed;
}

/* How long loop_run_once() may wait: milliseconds, 0 when something is due, -1 when no timer is
 * armed. May be earlier than the next timer (a level is to be spread out), never later. */
int wheel_timeout(const struct wheel *wheel, uint64_t now_ms);

/* Run all timers with due_ms <= now_ms, in order of due_ms, and return how many. fired() may set
 * and cancel any timer; what it sets for the past waits for the next call. */
unsigned wheel_advance(struct wheel *wheel, uint64_t now_ms);

#endif
