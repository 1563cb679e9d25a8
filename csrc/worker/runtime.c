/* edge_data_run(): rings, shared memory, sandbox, threads, then the control loop.
 *
 * Called once by edge/dataplane/main.py. The order matters: all that needs privileges or a system
 * call which the sandbox forbids is done before sandbox_enter(), all threads start after it. */
#define _GNU_SOURCE
#include "worker/runtime.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "net/sandbox.h"

#define SHARED_BUFFERS 64
#define SHARED_BUFFER_BYTES 16384
#define WORKERS_MAX 64
#define OWN_DESCRIPTORS 512
#define CONNECTION_BYTES 16384 /* an idle TLS connection, nearly all of it OpenSSL's */

uint64_t runtime_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void runtime_notify(struct runtime *runtime)
{
    uint64_t one = 1;
    if (write(runtime->passed_fd, &one, sizeof one) < 0)
        return; /* it is readable already */
}

static void *run_log(void *argument)
{
    struct access_log *log = argument;
    pthread_setname_np(pthread_self(), "edge-log");
    access_log_run(log);
    return 0;
}

/* Each worker's part of what the process may have. A quarter of the descriptors stays for our own
 * and for what the holder sends; half of the rest is for endpoints, so that those who are connected
 * already are served. Of the memory a quarter is for buffers, a quarter for connections. */
static void share_limits(const struct edge_data_config *config, struct proxy *proxy)
{
    struct rlimit files;
    uint64_t memory = (uint64_t)config->memory_mb << 20, connections = UINT32_MAX;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur != RLIM_INFINITY) {
        uint64_t own = files.rlim_cur / 4 < OWN_DESCRIPTORS ? files.rlim_cur / 4 : OWN_DESCRIPTORS;
        connections = (files.rlim_cur - own) / 2 / config->workers;
        proxy->upstreams_max = connections > UINT32_MAX ? UINT32_MAX : (uint32_t)connections;
    }
    if (memory > 0) {
        uint64_t fit = memory / 4 / CONNECTION_BYTES / config->workers;
        connections = fit < connections ? fit : connections;
        proxy->blocks.bytes_max = memory / 4 / config->workers;
    }
    if (connections < UINT32_MAX)
        proxy->downstreams_max = (uint32_t)connections;
}

static int make_workers(struct runtime *runtime, struct edge_error *err)
{
    const struct edge_data_config *config = runtime->config;
    struct loop_options options = {.kind = (enum edge_loop_kind)config->loop,
                                   .shared_buffers = SHARED_BUFFERS,
                                   .shared_buffer_bytes = SHARED_BUFFER_BYTES};
    runtime->workers = calloc(config->workers, sizeof *runtime->workers);
    if (!runtime->workers)
        return error_set(err, EDGE_ERR_NOMEM, "no memory for %u workers", config->workers);
    for (uint32_t i = 0; i < config->workers; i++) {
        struct loop *loop;
        int rc = loop_create(&options, &loop, err);
        if (rc < 0)
            return rc;
        options.kind = loop_kind(loop); /* all of one kind */
        rc = worker_init(&runtime->workers[i], runtime, i, loop, err);
        share_limits(config, &runtime->workers[i].proxy);
        runtime->worker_count++;
        if (rc < 0)
            return rc;
    }
    return EDGE_OK;
}

static int start_threads(struct runtime *runtime, pthread_t *log_thread, struct edge_error *err)
{
    sigset_t all, before;
    int rc = 0;
    /* Signals are the control thread's. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (runtime->has_log)
        rc = pthread_create(log_thread, 0, run_log, &runtime->log);
    if (rc != 0)
        runtime->has_log = false;
    for (uint32_t i = 0; rc == 0 && i < runtime->worker_count; i++) {
        rc = pthread_create(&runtime->workers[i].thread, 0, worker_run, &runtime->workers[i]);
        if (rc == 0)
            runtime->started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, 0);
    return rc == 0 ? EDGE_OK : error_system(err, rc, "pthread_create");
}

static int run(struct runtime *runtime, struct edge_error *err)
{
    const struct edge_data_config *config = runtime->config;
    struct sandbox_options sandbox = {.uid = config->uid, .gid = config->gid};
    pthread_t log_thread;
    int rc = stats_map(&runtime->stats, config->stats_fd, err);
    if (rc < 0)
        return rc;
    if ((uint64_t)config->lane_first + config->workers > runtime->stats.header->lane_count)
        return error_set(err, EDGE_ERR_LIMIT, "the stats memory has %u lanes",
                         runtime->stats.header->lane_count);
    rc = stats_claim(&runtime->stats, config->lane_first, config->workers, err);
    if (rc < 0)
        return rc;
    if (runtime->has_log) {
        rc = access_log_init(&runtime->log, config->workers, config->log_fd, config->log_format,
                             err);
        if (rc < 0)
            return rc;
    }
    rc = make_workers(runtime, err);
    if (rc == EDGE_OK)
        rc = sandbox_enter(&sandbox, err);
    if (rc == EDGE_OK)
        rc = start_threads(runtime, &log_thread, err);
    if (rc == EDGE_OK)
        rc = control_run(runtime, err);
    atomic_store(&runtime->draining, true);
    for (uint32_t i = 0; i < runtime->started; i++) {
        loop_wake(runtime->workers[i].proxy.loop);
        pthread_join(runtime->workers[i].thread, 0);
    }
    if (runtime->has_log) {
        access_log_stop(&runtime->log);
        pthread_join(log_thread, 0);
    }
    stats_leave(&runtime->stats, config->lane_first, config->workers);
    return rc;
}

/* SIGTERM comes to the control thread as something to read; the sandbox forbids making this. */
static int take_signals(struct runtime *runtime, struct edge_error *err)
{
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &term, 0);
    runtime->signal_fd = signalfd(-1, &term, SFD_CLOEXEC | SFD_NONBLOCK);
    return runtime->signal_fd < 0 ? error_system(err, errno, "signalfd") : EDGE_OK;
}

static int map_commit_page(struct runtime *runtime, struct edge_error *err)
{
    void *page =
        mmap(0, sizeof *runtime->commit_page, PROT_READ, MAP_SHARED, runtime->config->commit_fd, 0);
    if (page == MAP_FAILED)
        return error_system(err, errno, "mmap of the commit page");
    runtime->commit_page = page;
    return EDGE_OK;
}

int edge_data_run(const struct edge_data_config *config, struct edge_error *err)
{
    struct runtime runtime = {
        .config = config, .passed_fd = -1, .signal_fd = -1, .has_log = config->log_fd >= 0};
    runtime.log.wake_fd = -1;
    if (config->workers == 0 || config->workers > WORKERS_MAX)
        return error_set(err, EDGE_ERR_LIMIT, "%u workers: 1 to %u are possible", config->workers,
                         WORKERS_MAX);
    signal(SIGPIPE, SIG_IGN);
    runtime.passed_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (runtime.passed_fd < 0)
        return error_system(err, errno, "eventfd");
    int rc = take_signals(&runtime, err);
    if (rc == EDGE_OK)
        rc = map_commit_page(&runtime, err);
    if (rc == EDGE_OK)
        rc = run(&runtime, err);
    for (uint32_t i = 0; i < runtime.worker_count; i++)
        worker_release(&runtime.workers[i]);
    free(runtime.workers);
    access_log_release(&runtime.log);
    stats_unmap(&runtime.stats);
    if (runtime.commit_page)
        munmap((void *)runtime.commit_page, sizeof *runtime.commit_page);
    if (runtime.signal_fd >= 0)
        close(runtime.signal_fd);
    close(runtime.passed_fd);
    return rc;
}
