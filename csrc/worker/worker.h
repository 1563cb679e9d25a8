/* A worker: one thread, one loop, one proxy, its own lane of counters.
 *
 * Made and started by runtime.c, told by control.c through the atomics and the inbox below. It
 * takes the active edition at the top of its loop and says so; that is the only moment at which
 * versions change for it. */
#ifndef EDGE_WORKER_WORKER_H
#define EDGE_WORKER_WORKER_H

#include <pthread.h>
#include <stdatomic.h>

#include "proxy/proxy.h"
#include "worker/access_log.h"
#include "worker/edition.h"

struct runtime;

struct worker_listener {
    struct loop_listener listener;
    struct list link;
    struct worker *worker;
    uint32_t slot;
    bool accepting;
};

struct worker {
    struct proxy proxy;
    struct runtime *runtime;
    struct edition *edition;
    uint32_t index;
    pthread_t thread;
    struct list listeners;
    struct list leaving; /* ended here, perhaps not yet in the loop, perhaps with a queue */
    bool near;           /* its share of connections is nearly used up */
    bool full;           /* as many connections as it may have: nothing is accepted */
    bool draining, cut;

    _Atomic(struct edition *) passed; /* the edition in use, for control.c */
    _Atomic bool done;                /* drained: its thread ends */

    pthread_mutex_t inbox_lock; /* of the two lists below; taken only when inbox_full says so */
    struct list inbox;          /* struct worker_listener to begin */
    uint64_t unlisten;          /* bits of slots to end */
    _Atomic bool inbox_full;
};

int worker_init(struct worker *worker, struct runtime *runtime, uint32_t index, struct loop *loop,
                struct edge_error *err);
void worker_release(struct worker *worker);
void *worker_run(void *worker);
/* Control thread. The descriptor becomes the worker's. */
bool worker_listen(struct worker *worker, uint32_t slot, int fd);
void worker_unlisten(struct worker *worker, uint32_t slot);

#endif
