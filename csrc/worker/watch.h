/* What the control thread tells without being asked: heartbeat, alive, drain-progress.
 *
 * Called by control.c in every turn of its loop. Stalled: a worker whose loop top is old. */
#ifndef EDGE_WORKER_WATCH_H
#define EDGE_WORKER_WATCH_H

#include "worker/runtime.h"

#define BEAT_MS 100 /* between two stamps of the heartbeat */

struct watch {
    struct runtime *runtime;
    struct edge_heartbeat *heartbeat; /* 0: there is no XDP to tell */
    uint64_t beat_ns, told_ns;
};

/* The page that XDP watches; the descriptor is closed. */
void watch_take_heartbeat(struct watch *watch, int fd);
/* Stamp and tell what is due. control_fd -1: there is no holder to tell. */
void watch_turn(struct watch *watch, int control_fd);
void watch_release(struct watch *watch);

#endif
