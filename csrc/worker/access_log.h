/* Access log: one ring of bytes a worker, one thread that writes them out.
 *
 * A worker puts whole lines and never waits: a line that does not fit is dropped and counted in
 * its lane. The thread "edge-log" writes to the descriptor that the holder opened and may change.
 */
#ifndef EDGE_WORKER_ACCESS_LOG_H
#define EDGE_WORKER_ACCESS_LOG_H

#include <stdatomic.h>

#include "proxy/proxy.h"

#define ACCESS_LOG_RING_BYTES (1u << 20)
#define ACCESS_LOG_LINE_MAX 8192

struct access_log_ring {
    _Alignas(64) _Atomic uint64_t written; /* by the worker */
    _Alignas(64) _Atomic uint64_t drained; /* by the log thread */
    uint8_t *bytes;
};

struct access_log {
    struct access_log_ring *rings;
    struct access_log_ring *torn; /* its line is half written: it goes on first; the thread's own */
    uint32_t ring_count;
    uint32_t format; /* enum edge_log_format */
    _Atomic int fd;
    _Atomic bool stopping;
    _Atomic bool sleeps; /* wake it by wake_fd */
    int wake_fd;
    _Atomic int next_fd;
};

int access_log_init(struct access_log *log, uint32_t workers, int fd, uint32_t format,
                    struct edge_error *err);
void access_log_release(struct access_log *log);
/* Worker: format and put the line of a finished exchange. */
void access_log_put(struct access_log *log, uint32_t ring, struct proxy *proxy,
                    const struct exchange *exchange);
/* Thread body; returns after access_log_stop() when the rings are empty. */
void access_log_run(struct access_log *log);
void access_log_stop(struct access_log *log);
/* Control thread: lines go to another descriptor from now on (SIGHUP of the holder). */
void access_log_reopen(struct access_log *log, int fd);

/* The formatting alone, for tests: bytes written, 0 when it does not fit. */
size_t access_log_format(uint32_t format, const struct proxy *proxy,
                         const struct exchange *exchange, char *out, size_t capacity);

#endif
