/* Included before every C file of a library that a test builds: one of EDGE_FAIL_ONE_IN allocations
 * of a worker's thread fails. Never those of the first thread, which prepares before it serves. */
#ifndef EDGE_FAILING_MEMORY_H
#define EDGE_FAILING_MEMORY_H
#define _GNU_SOURCE

#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static __thread uint64_t failing_state; /* 0: not looked at yet, 1: the first thread */

static inline int failing_now(void)
{
    if (failing_state == 0) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        failing_state = syscall(SYS_gettid) == getpid() ? 1 : (uint64_t)now.tv_nsec << 8 | 2;
    }
    if (failing_state == 1)
        return 0;
    failing_state = failing_state * 6364136223846793005u + 1442695040888963407u;
    return (failing_state >> 33) % EDGE_FAIL_ONE_IN == 0;
}

static inline void *failing_malloc(size_t bytes)
{
    return failing_now() ? 0 : malloc(bytes);
}

static inline void *failing_calloc(size_t count, size_t bytes)
{
    return failing_now() ? 0 : calloc(count, bytes);
}

static inline void *failing_realloc(void *old, size_t bytes)
{
    return failing_now() ? 0 : realloc(old, bytes);
}

#define malloc(bytes) failing_malloc(bytes)
#define calloc(count, bytes) failing_calloc((count), (bytes))
#define realloc(old, bytes) failing_realloc((old), (bytes))

#endif
