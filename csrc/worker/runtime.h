/* The data plane of one process: its workers, its log, and what its threads tell each other.
 *
 * Owned by edge_data_run() (runtime.c); control.c is its one thread that talks to the holder. */
#ifndef EDGE_WORKER_RUNTIME_H
#define EDGE_WORKER_RUNTIME_H

#include "edge_abi.h"
#include "worker/stats.h"
#include "worker/worker.h"

struct runtime {
    const struct edge_data_config *config;
    struct stats stats;
    struct access_log log;
    bool has_log;
    struct worker *workers;
    uint32_t worker_count;
    uint32_t started;

    _Atomic(struct edition *) active; /* control writes, workers read at the top of their loops */
    _Atomic bool closing;             /* answers are their connections' last */
    _Atomic bool draining;            /* and nothing new is accepted */
    _Atomic uint64_t drain_idle_ns;   /* CLOCK_MONOTONIC: connections without a request end */
    _Atomic uint64_t drain_until_ns;  /* everything ends */
    int passed_fd;                    /* eventfd: a worker took an edition or is done */
    int signal_fd;                    /* SIGTERM */
    const struct edge_commit_page *commit_page;
};

/* The control thread's loop: returns 0 when drained, negative on error. */
int control_run(struct runtime *runtime, struct edge_error *err);
uint64_t runtime_now_ns(void);
void runtime_notify(struct runtime *runtime);

#endif
