/* A worker's thread: take the edition, run the loop once, tick, drain. Called by runtime.c.
 *
 * Never blocks but in its loop's wait, never parses a message, never frees an edition. */
#define _GNU_SOURCE
#include "worker/worker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "match/matcher.h"
#include "worker/runtime.h"

#define TICK_MS 250       /* the watchdog's food is never older, and drains are noticed */
#define QUEUE_MAX 4096    /* connections that may wait in a socket's queue */
#define ACCEPTS_MAX 64    /* from a queue that ends, in one turn */
#define RETRY_MS 10       /* until a queue that ends is looked at again */
#define CUT_LINGER_MS 500 /* beyond the grace period, for FIN and what crosses it */

static void log_exchange(struct proxy *proxy, const struct exchange *exchange)
{
    struct worker *worker = LIST_OWNER(proxy, struct worker, proxy);
    access_log_put(&worker->runtime->log, worker->index, proxy, exchange);
}

int worker_init(struct worker *worker, struct runtime *runtime, uint32_t index, struct loop *loop,
                struct edge_error *err)
{
    uint32_t lane = runtime->config->lane_first + index;
    uint64_t seed[1];
    worker->runtime = runtime;
    worker->index = index;
    list_init(&worker->listeners);
    list_init(&worker->leaving);
    list_init(&worker->inbox);
    pthread_mutex_init(&worker->inbox_lock, 0);
    worker->proxy.lane = stats_lane(&runtime->stats, lane);
    worker->proxy.route_cells = stats_route_cells(&runtime->stats, lane);
    worker->proxy.upstream_cells = stats_upstream_cells(&runtime->stats, lane);
    worker->proxy.log = runtime->has_log ? log_exchange : 0;
    if (getentropy(seed, sizeof seed) < 0)
        seed[0] = runtime_now_ns() ^ ((uint64_t)index << 32);
    int rc = proxy_init(&worker->proxy, loop, seed[0]);
    return rc < 0 ? error_set(err, rc, "no memory for worker %u", index) : EDGE_OK;
}

void worker_release(struct worker *worker)
{
    proxy_release(&worker->proxy);
    pthread_mutex_destroy(&worker->inbox_lock);
    loop_destroy(worker->proxy.loop);
}

/* ---- from the control thread ------------------------------------------------------------------
 */

bool worker_listen(struct worker *worker, uint32_t slot, int fd)
{
    struct worker_listener *listener = calloc(1, sizeof *listener);
    if (!listener)
        return false;
    listener->listener.fd = fd;
    listener->slot = slot;
    listener->worker = worker;
    pthread_mutex_lock(&worker->inbox_lock);
    list_push_back(&worker->inbox, &listener->link);
    pthread_mutex_unlock(&worker->inbox_lock);
    atomic_store(&worker->inbox_full, true);
    loop_wake(worker->proxy.loop);
    return true;
}

void worker_unlisten(struct worker *worker, uint32_t slot)
{
    pthread_mutex_lock(&worker->inbox_lock);
    worker->unlisten |= 1ull << slot;
    LIST_EACH(at, after, &worker->inbox) /* the worker never saw these */
    {
        struct worker_listener *listener = LIST_OWNER(at, struct worker_listener, link);
        if (listener->slot != slot)
            continue;
        close(listener->listener.fd);
        list_remove(&listener->link);
        free(listener);
    }
    pthread_mutex_unlock(&worker->inbox_lock);
    atomic_store(&worker->inbox_full, true);
    loop_wake(worker->proxy.loop);
}

/* ---- the worker's own thread -------------------------------------------------------------------
 */

static void look_at_share(struct worker *worker);

static void accepted(struct loop_listener *listener, int fd)
{
    struct worker_listener *owner = listener->owner;
    struct proxy *proxy = &owner->worker->proxy;
    if (fd < 0)
        COUNT(proxy->lane->accept_errors, 1);
    else
        h1_downstream_accept(proxy, owner->slot, fd);
    look_at_share(owner->worker);
}

static bool served(const struct worker_listener *listener)
{
    const struct snapshot_view *view = listener->worker->proxy.view;
    return view && match_listener(&view->image, listener->slot) >= 0;
}

/* The loop may still hold an accept: the memory is freed by sweep(). */
static void end_listener(struct worker_listener *listener)
{
    if (listener->accepting)
        loop_unlisten(&listener->listener);
    list_remove(&listener->link);
    list_push_back(&listener->worker->leaving, &listener->link);
}

/* We may be the last who have the socket, and closing it resets what waits in its queue. */
static bool empty_queue(struct worker_listener *listener)
{
    if (!listener->accepting || !served(listener))
        return true;
    for (int i = 0; i < ACCEPTS_MAX; i++) {
        int fd = accept4(listener->listener.fd, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            accepted(&listener->listener, fd);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            accepted(&listener->listener, -errno);
            return false;
        } else if (errno != EINTR && errno != ECONNABORTED && errno != EPROTO) {
            return true;
        }
    }
    return false;
}

static void sweep(struct worker *worker)
{
    LIST_EACH(at, after, &worker->leaving)
    {
        struct worker_listener *listener = LIST_OWNER(at, struct worker_listener, link);
        if (listener->listener.loop || (!worker->cut && !empty_queue(listener)))
            continue;
        close(listener->listener.fd);
        list_remove(&listener->link);
        free(listener);
    }
}

/* A socket whose slot the image does not have waits: its clients stay in the kernel's queue. */
static void accept_where_served(struct worker *worker)
{
    LIST_EACH(at, after, &worker->listeners)
    {
        struct worker_listener *listener = LIST_OWNER(at, struct worker_listener, link);
        bool wanted = !worker->full && served(listener);
        if (wanted == listener->accepting || worker->draining)
            continue;
        listener->accepting = wanted;
        if (!wanted) {
            loop_unlisten(&listener->listener);
            continue;
        }
        listener->listener.accepted = accepted;
        listener->listener.owner = listener;
        listener->listener.one_by_one = worker->near;
        loop_listen(worker->proxy.loop, &listener->listener);
    }
}

/* At its share of connections a worker leaves new ones in the kernel's queue; near it, it does not
 * let the kernel accept a whole queue at once. */
static void look_at_share(struct worker *worker)
{
    uint64_t most = worker->proxy.downstreams_max, open = worker->proxy.lane->connections_open;
    if (most == 0 || worker->draining)
        return;
    uint64_t again = most - most / 16; /* not at each connection that ends */
    bool full = open >= (worker->full ? again : most), near = open + QUEUE_MAX >= most;
    if (full != worker->full) {
        worker->full = full;
        if (full)
            COUNT(worker->proxy.lane->accept_errors, 1);
        accept_where_served(worker);
    }
    if (near == worker->near)
        return;
    worker->near = near;
    LIST_EACH(at, after, &worker->listeners)
    {
        struct worker_listener *listener = LIST_OWNER(at, struct worker_listener, link);
        if (!listener->accepting)
            continue;
        loop_unlisten(&listener->listener);
        listener->listener.one_by_one = near;
        loop_listen(worker->proxy.loop, &listener->listener);
    }
}

static void read_inbox(struct worker *worker)
{
    uint64_t unlisten;
    if (!atomic_exchange(&worker->inbox_full, false))
        return;
    pthread_mutex_lock(&worker->inbox_lock);
    unlisten = worker->unlisten;
    worker->unlisten = 0;
    /* What the inbox has of such a slot came later and stays. */
    LIST_EACH(at, after, &worker->listeners)
    {
        struct worker_listener *listener = LIST_OWNER(at, struct worker_listener, link);
        if (unlisten & (1ull << listener->slot))
            end_listener(listener);
    }
    list_splice(&worker->listeners, &worker->inbox);
    pthread_mutex_unlock(&worker->inbox_lock);
    accept_where_served(worker);
}

static void take_edition(struct worker *worker)
{
    struct edition *edition = atomic_load_explicit(&worker->runtime->active, memory_order_acquire);
    if (edition == worker->edition)
        return;
    worker->edition = edition;
    worker->proxy.view = edition->view;
    worker->proxy.tls = edition->tls;
    accept_where_served(worker);
    __atomic_store_n(&worker->proxy.lane->version, edition->view->version, __ATOMIC_RELAXED);
    atomic_store_explicit(&worker->passed, edition, memory_order_release);
    runtime_notify(worker->runtime);
}

static uint64_t idle_moment(const struct worker *worker)
{
    return atomic_load(&worker->runtime->drain_idle_ns);
}

static uint64_t cut_moment(const struct worker *worker)
{
    uint64_t until = atomic_load(&worker->runtime->drain_until_ns);
    return worker->cut ? until + CUT_LINGER_MS * 1000000ull : until;
}

/* true: nothing is left to do. */
static bool drain(struct worker *worker)
{
    struct proxy *proxy = &worker->proxy;
    uint64_t now = loop_now_ns(proxy->loop);
    if (!worker->draining) {
        worker->draining = proxy->closing = true;
        LIST_EACH(at, after, &worker->listeners)
        end_listener(LIST_OWNER(at, struct worker_listener, link));
        sweep(worker);
    }
    if (list_empty(&proxy->downstreams) && list_empty(&worker->leaving)) {
        h1_upstream_abort_all(proxy);
        return proxy_idle(proxy);
    }
    if (!proxy->ending && now >= idle_moment(worker))
        proxy_end_idle(proxy);
    if (now >= cut_moment(worker)) {
        proxy_cut(proxy, worker->cut ? 0 : CUT_LINGER_MS);
        worker->cut = true;
    }
    return false;
}

/* The loop's next wait: to the next timer, the next moment of a drain, or a queue to be emptied. */
static int wait_ms(const struct worker *worker)
{
    uint64_t now = loop_now_ns(worker->proxy.loop), next = cut_moment(worker);
    int wait = wheel_timeout(&worker->proxy.wheel, now / 1000000);
    if (wait < 0 || wait > TICK_MS)
        wait = TICK_MS;
    if (!list_empty(&worker->leaving) && wait > RETRY_MS)
        wait = RETRY_MS;
    if (!worker->draining)
        return wait;
    if (!worker->proxy.ending && idle_moment(worker) < next)
        next = idle_moment(worker);
    uint64_t left = next > now ? (next - now) / 1000000 + 1 : 1;
    return left < (uint64_t)wait ? (int)left : wait;
}

void *worker_run(void *argument)
{
    struct worker *worker = argument;
    struct proxy *proxy = &worker->proxy;
    struct edge_error err = {0};
    char name[16];
    snprintf(name, sizeof name, "edge-w%u", worker->index);
    pthread_setname_np(pthread_self(), name);
    if (loop_enable(proxy->loop, &err) < 0) {
        fprintf(stderr, "edge-data: worker %u: %s\n", worker->index, err.reason);
        abort(); /* the holder starts another process */
    }
    for (;;) {
        take_edition(worker);
        read_inbox(worker);
        sweep(worker);
        look_at_share(worker);
        if (atomic_load_explicit(&worker->runtime->closing, memory_order_relaxed))
            proxy->closing = true;
        if (atomic_load_explicit(&worker->runtime->draining, memory_order_relaxed) && drain(worker))
            break;
        int rc = loop_run_once(proxy->loop, wait_ms(worker));
        if (rc < 0) {
            fprintf(stderr, "edge-data: worker %u: %s\n", worker->index, edge_strerror(rc));
            abort();
        }
        proxy_tick(proxy);
        __atomic_store_n(&proxy->lane->loop_ns, loop_now_ns(proxy->loop), __ATOMIC_RELAXED);
    }
    atomic_store(&worker->done, true);
    /* Its siblings may drain for long: who is done is not stalled. */
    __atomic_store_n(&proxy->lane->loop_ns, INT64_MAX, __ATOMIC_RELAXED);
    runtime_notify(worker->runtime);
    return 0;
}
