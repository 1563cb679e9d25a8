/* The data plane's pulse, on the control thread. XDP reads the heartbeat as "the data plane
 * serves", the holder kills a data plane that is silent or stalled for long: so a stuck worker must
 * not hide behind this thread. Also closes the books of dead lanes. Never waits: what the holder
 * does not read is not told. */
#define _GNU_SOURCE
#include "worker/watch.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define TELL_NS 1000000000  /* between two messages to the holder */
#define STUCK_NS 3000000000 /* a worker that old at the top of its loop is stalled */

static uint32_t count_stalled(const struct runtime *runtime, uint64_t now)
{
    uint32_t stalled = 0;
    for (uint32_t i = 0; i < runtime->worker_count; i++) {
        const struct worker *worker = &runtime->workers[i];
        uint64_t seen = __atomic_load_n(&worker->proxy.lane->loop_ns, __ATOMIC_RELAXED);
        stalled += seen + STUCK_NS < now && !atomic_load(&worker->done);
    }
    return stalled;
}

/* Returns the number of stalled workers. */
static uint32_t stamp(const struct watch *watch, uint64_t now)
{
    uint32_t stalled = count_stalled(watch->runtime, now);
    if (watch->heartbeat && stalled == 0)
        __atomic_store_n(&watch->heartbeat->data_ns, now, __ATOMIC_RELAXED);
    return stalled;
}

void watch_take_heartbeat(struct watch *watch, int fd)
{
    size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
    void *page = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (page == MAP_FAILED)
        return;
    watch_release(watch);
    watch->heartbeat = page;
    stamp(watch, runtime_now_ns()); /* before `prepared` can be said of what follows */
}

void watch_release(struct watch *watch)
{
    if (watch->heartbeat)
        munmap(watch->heartbeat, (size_t)sysconf(_SC_PAGESIZE));
    watch->heartbeat = 0;
}

static void tell(int control_fd, const char *text, int length)
{
    if (control_fd >= 0)
        send(control_fd, text, (size_t)length, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void tell_progress(const struct runtime *runtime, int control_fd)
{
    uint64_t open = 0, tunnels = 0;
    char text[96];
    for (uint32_t i = 0; i < runtime->worker_count; i++) {
        const struct edge_lane *lane = runtime->workers[i].proxy.lane;
        open += __atomic_load_n(&lane->in_flight, __ATOMIC_RELAXED); /* a tunnel is one, too */
        tunnels += __atomic_load_n(&lane->tunnels, __ATOMIC_RELAXED);
    }
    tell(control_fd, text,
         snprintf(text, sizeof text, "drain-progress open=%llu tunnels=%llu",
                  (unsigned long long)(open > tunnels ? open - tunnels : 0),
                  (unsigned long long)tunnels));
}

void watch_turn(struct watch *watch, int control_fd)
{
    const struct runtime *runtime = watch->runtime;
    uint64_t now = runtime_now_ns();
    if (now - watch->beat_ns < BEAT_MS * 1000000ull)
        return;
    watch->beat_ns = now;
    uint32_t stalled = stamp(watch, now);
    if (now - watch->told_ns < TELL_NS)
        return;
    watch->told_ns = now;
    /* One that drained beside us and was killed has nobody else who closes its books. */
    stats_settle_dead(&runtime->stats, runtime->config->lane_first, runtime->worker_count);
    char text[32];
    tell(control_fd, text, snprintf(text, sizeof text, "alive stalled=%u", stalled));
    if (atomic_load(&runtime->draining))
        tell_progress(runtime, control_fd);
}
