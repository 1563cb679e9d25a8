/* A timeout that is moved at every request and almost never fires.
 *
 * Moving it later is one store: the timer stays where it is, and when it fires too early it is
 * set again for the rest. Used by both HTTP/1 codecs. */
#ifndef EDGE_PROXY_DEADLINE_H
#define EDGE_PROXY_DEADLINE_H

#include "base/wheel.h"

struct deadline {
    struct wheel_timer timer;
    struct wheel *wheel;
    uint64_t due_ms; /* 0: none */
    void (*passed)(struct deadline *deadline);
};

static inline void deadline_fired(struct wheel_timer *timer)
{
    struct deadline *deadline = LIST_OWNER(timer, struct deadline, timer);
    if (deadline->due_ms == 0)
        return;
    if (deadline->due_ms > deadline->wheel->now_ms) {
        wheel_set(deadline->wheel, timer, deadline->due_ms);
        return;
    }
    deadline->due_ms = 0;
    deadline->passed(deadline);
}

static inline void deadline_init(struct deadline *deadline, struct wheel *wheel,
                                 void (*passed)(struct deadline *deadline))
{
    wheel_timer_init(&deadline->timer, deadline_fired);
    deadline->wheel = wheel;
    deadline->due_ms = 0;
    deadline->passed = passed;
}

static inline void deadline_set(struct deadline *deadline, uint64_t now_ms, uint32_t after_ms)
{
    deadline->due_ms = now_ms + after_ms;
    if (!wheel_armed(&deadline->timer) || deadline->timer.due_ms > deadline->due_ms)
        wheel_set(deadline->wheel, &deadline->timer, deadline->due_ms);
}

static inline void deadline_clear(struct deadline *deadline)
{
    deadline->due_ms = 0;
}

static inline void deadline_release(struct deadline *deadline)
{
    deadline->due_ms = 0;
    wheel_cancel(deadline->wheel, &deadline->timer);
}

#endif
