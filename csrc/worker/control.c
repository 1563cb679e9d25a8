/* The data plane's talk with its holder: listen, image, commit, log, closing, drain.
 *
 * A holder that is gone leaves it an orphan: it serves on, until SIGTERM drains it. Runs on the
 * process's first thread, after all others were started. Images are checked and certificates parsed
 * here, never on a worker; a commit is one store of a pointer. An edition is released when every
 * worker has passed the top of its loop with a newer one. The verbs and who may say them stand in
 * design note 0001. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/error.h"
#include "worker/message.h"
#include "worker/watch.h"

#define STAGED_MAX 128 /* prepared and not committed; a holder keeps at most 65 */
#define IDLE_MS 1000   /* kept connections without a request, when a drain does not say it */

struct staged {
    struct list link; /* oldest first */
    struct edition *edition;
};

struct control {
    struct runtime *runtime;
    struct certificate_cache certificates;
    struct list staged;
    struct list retired; /* editions that a worker may still read */
    uint32_t staged_count;
    bool announced; /* "serving" was said for the active edition */
    int fd;         /* to the holder; -1: there is none any more */
    struct watch watch;
    struct message message;
};

static void say(struct control *control, const char *text, int length)
{
    /* A holder that is gone is noticed by the next receive. */
    if (control->fd >= 0)
        message_send(control->fd, text, (size_t)length);
}

static void refuse(struct control *control, uint64_t version, const struct edge_error *err)
{
    char text[1024], field[128], reason[512];
    message_escape(err->field, field, sizeof field);
    message_escape(err->reason, reason, sizeof reason);
    int length = snprintf(
        text, sizeof text, "refused version=%llu code=%d section=%u index=%u field=%s reason=%s",
        (unsigned long long)version, err->code, err->section, err->index, field, reason);
    say(control, text, length);
}

static void wake_workers(struct runtime *runtime)
{
    for (uint32_t i = 0; i < runtime->worker_count; i++)
        loop_wake(runtime->workers[i].proxy.loop);
}

/* ---- image -------------------------------------------------------------------------------------
 */

static int prepare_full(struct control *control, const uint8_t *bytes, uint64_t size,
                        struct edition **edition, struct edge_error *err)
{
    struct snapshot_view *view;
    const uint8_t *secrets = 0;
    uint64_t secrets_size = 0;
    int fd = message_take(&control->message, 1);
    int rc = EDGE_OK;
    if (fd >= 0) {
        rc = snapshot_map(fd, &secrets, &secrets_size, err);
        close(fd);
        if (rc == EDGE_OK)
            rc = edge_secrets_check(secrets, secrets_size, err);
    }
    if (rc == EDGE_OK)
        rc = snapshot_view_create(bytes, size, &view, err);
    if (rc < 0)
        munmap((void *)bytes, size);
    else
        rc = edition_create(&control->certificates, view, secrets, edition, err);
    if (secrets)
        munmap((void *)secrets, secrets_size);
    return rc;
}

static int prepare_patch(struct control *control, const uint8_t *bytes, uint64_t size,
                         struct edition **edition, struct edge_error *err)
{
    struct snapshot_view *view;
    struct edition *base = 0;
    int rc = error_set(err, EDGE_ERR_BASE, "there is no image that this patch belongs to");
    for (struct list *at = control->staged.previous; at != &control->staged; at = at->previous) {
        base = LIST_OWNER(at, struct staged, link)->edition;
        rc = snapshot_view_patch(base->view, bytes, size, &view, err);
        if (rc != EDGE_ERR_BASE)
            break;
    }
    if (rc == EDGE_ERR_BASE) {
        base = atomic_load(&control->runtime->active);
        if (base)
            rc = snapshot_view_patch(base->view, bytes, size, &view, err);
    }
    if (rc < 0) {
        munmap((void *)bytes, size);
        return rc;
    }
    return edition_patched(base, view, edition, err);
}

static void unstage(struct control *control, struct staged *staged)
{
    list_remove(&staged->link);
    control->staged_count--;
    free(staged);
}

/* Slots are given from 0 on, so there are hardly more in use than routes. */
static void gather_cells(const struct runtime *runtime, const struct image *image)
{
    for (uint32_t i = 0; i < runtime->worker_count; i++)
        stats_gather(&runtime->stats, runtime->config->lane_first + i,
                     image->count[EDGE_SECTION_ROUTE]);
}

static void take_image(struct control *control)
{
    uint64_t version = message_number(&control->message, "version", 0);
    uint64_t kind = message_number(&control->message, "kind", EDGE_IMAGE_FULL);
    struct edge_error err = {0};
    struct edition *edition = 0;
    const uint8_t *bytes;
    uint64_t size;
    char text[64];
    int fd = message_take(&control->message, 0);
    int rc = fd < 0 ? error_set(&err, EDGE_ERR_INVALID, "the message has no image")
                    : snapshot_map(fd, &bytes, &size, &err);
    if (fd >= 0)
        close(fd);
    if (rc == EDGE_OK)
        rc = kind == EDGE_IMAGE_PATCH ? prepare_patch(control, bytes, size, &edition, &err)
                                      : prepare_full(control, bytes, size, &edition, &err);
    struct staged *staged = rc == EDGE_OK ? calloc(1, sizeof *staged) : 0;
    if (rc == EDGE_OK && edition->view->version != version)
        rc = error_set(&err, EDGE_ERR_INVALID, "the image says version %llu",
                       (unsigned long long)edition->view->version);
    else if (rc == EDGE_OK && !staged)
        rc = error_set(&err, EDGE_ERR_NOMEM, "no memory to stage an image");
    if (rc < 0) {
        free(staged);
        if (edition)
            edition_release(edition);
        if (err.code == 0)
            error_set(&err, rc, "%s", edge_strerror(rc));
        refuse(control, version, &err);
        return;
    }
    staged->edition = edition;
    list_push_back(&control->staged, &staged->link);
    if (++control->staged_count > STAGED_MAX) {
        struct staged *oldest = LIST_OWNER(control->staged.next, struct staged, link);
        edition_release(oldest->edition);
        unstage(control, oldest);
    }
    say(control, text,
        snprintf(text, sizeof text, "prepared version=%llu", (unsigned long long)version));
    if (kind != EDGE_IMAGE_PATCH)
        gather_cells(control->runtime, &edition->view->image);
}

/* Publish a prepared version; what was prepared before it will not be committed any more. */
static void commit_version(struct control *control, uint64_t version)
{
    struct runtime *runtime = control->runtime;
    struct edition *chosen = 0;
    LIST_EACH(at, after, &control->staged)
    {
        struct staged *staged = LIST_OWNER(at, struct staged, link);
        uint64_t its = staged->edition->view->version;
        if (its > version)
            continue;
        if (its == version && !chosen)
            chosen = staged->edition;
        else
            edition_release(staged->edition);
        unstage(control, staged);
    }
    if (!chosen)
        return;
    struct edition *old = atomic_exchange_explicit(&runtime->active, chosen, memory_order_acq_rel);
    struct staged *retired = old ? calloc(1, sizeof *retired) : 0;
    if (retired) { /* without memory for the note it stays mapped, which is only a leak */
        retired->edition = old;
        list_push_back(&control->retired, &retired->link);
    }
    control->announced = false;
    wake_workers(runtime);
}

static void commit(struct control *control)
{
    commit_version(control, message_number(&control->message, "version", 0));
}

/* The page is written before the message is sent: what it names is committed, message or not. */
static void read_commit_page(struct control *control)
{
    const struct edge_commit_page *page = control->runtime->commit_page;
    if (list_empty(&control->staged) || page->magic != EDGE_COMMIT_MAGIC)
        return;
    uint64_t version = __atomic_load_n(&page->version, __ATOMIC_ACQUIRE);
    LIST_EACH(at, after, &control->staged)
    {
        if (LIST_OWNER(at, struct staged, link)->edition->view->version != version)
            continue;
        commit_version(control, version);
        return;
    }
}

/* A worker took an edition: when it was the last one, say so and let go of the older ones. */
static void look_at_workers(struct control *control)
{
    struct runtime *runtime = control->runtime;
    struct edition *active = atomic_load(&runtime->active);
    char text[64];
    if (!active || control->announced)
        return;
    for (uint32_t i = 0; i < runtime->worker_count; i++)
        if (atomic_load_explicit(&runtime->workers[i].passed, memory_order_acquire) != active)
            return;
    control->announced = true;
    LIST_EACH(at, after, &control->retired)
    {
        struct staged *retired = LIST_OWNER(at, struct staged, link);
        edition_release(retired->edition);
        list_remove(&retired->link);
        free(retired);
    }
    say(control, text,
        snprintf(text, sizeof text, "serving version=%llu",
                 (unsigned long long)active->view->version));
}

/* ---- the other verbs
 * ----------------------------------------------------------------------------- */

static void listen_on(struct control *control)
{
    struct runtime *runtime = control->runtime;
    uint64_t slot = message_number(&control->message, "slot", EDGE_LISTENER_SLOTS);
    uint64_t first = message_number(&control->message, "first_member", 0);
    if (slot >= EDGE_LISTENER_SLOTS)
        return;
    for (int i = 0; i < control->message.fd_count; i++) {
        uint32_t worker = (uint32_t)((first + (uint64_t)i) % runtime->worker_count);
        int fd = message_take(&control->message, i);
        if (!worker_listen(&runtime->workers[worker], (uint32_t)slot, fd))
            close(fd);
    }
}

static void unlisten(struct control *control)
{
    uint64_t slot = message_number(&control->message, "slot", EDGE_LISTENER_SLOTS);
    for (uint32_t i = 0; slot < EDGE_LISTENER_SLOTS && i < control->runtime->worker_count; i++)
        worker_unlisten(&control->runtime->workers[i], (uint32_t)slot);
}

static void take_heartbeat(struct control *control)
{
    int fd = message_take(&control->message, 0);
    if (fd >= 0)
        watch_take_heartbeat(&control->watch, fd);
}

static void reopen_log(struct control *control)
{
    int fd = message_take(&control->message, 0);
    if (fd >= 0 && control->runtime->has_log)
        access_log_reopen(&control->runtime->log, fd);
    else if (fd >= 0)
        close(fd);
}

static void close_after_answers(struct control *control)
{
    atomic_store(&control->runtime->closing, true);
    wake_workers(control->runtime);
}

static void drain(struct control *control, uint64_t grace_ms, uint64_t idle_ms)
{
    struct runtime *runtime = control->runtime;
    uint64_t now = runtime_now_ns();
    atomic_store(&runtime->drain_idle_ns, now + idle_ms * 1000000);
    atomic_store(&runtime->drain_until_ns, now + grace_ms * 1000000);
    atomic_store(&runtime->draining, true);
    wake_workers(runtime);
    control->watch.beat_ns = control->watch.told_ns = 0; /* the first progress now */
}

static void begin_drain(struct control *control)
{
    uint64_t grace_ms =
        message_number(&control->message, "grace_ms", control->runtime->config->grace_ms);
    drain(control, grace_ms, message_number(&control->message, "idle_ms", IDLE_MS));
}

/* SIGTERM: the one thing that can be said to an orphan. */
static void read_signal(struct control *control)
{
    struct signalfd_siginfo info;
    if (read(control->runtime->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
        drain(control, control->runtime->config->grace_ms, IDLE_MS);
}

static const struct {
    const char *verb;
    void (*run)(struct control *control);
} VERBS[] = {
    {"listen", listen_on},
    {"unlisten", unlisten},
    {"image", take_image},
    {"commit", commit},
    {"heartbeat", take_heartbeat},
    {"log", reopen_log},
    {"closing", close_after_answers},
    {"drain", begin_drain},
};

/* ---- the loop
 * -------------------------------------------------------------------------------------- */

static bool all_done(const struct runtime *runtime)
{
    for (uint32_t i = 0; i < runtime->worker_count; i++)
        if (!atomic_load(&runtime->workers[i].done))
            return false;
    return true;
}

/* false: the holder is gone. */
static bool hear(struct control *control)
{
    int rc = message_receive(control->fd, &control->message);
    if (rc == -EINTR || rc == -EAGAIN)
        return true;
    if (rc <= 0)
        return false;
    for (size_t i = 0; i < sizeof VERBS / sizeof *VERBS; i++)
        if (message_is(&control->message, VERBS[i].verb))
            VERBS[i].run(control);
    message_release(&control->message);
    return true;
}

static void let_go(struct control *control)
{
    struct list *lists[] = {&control->staged, &control->retired};
    for (int i = 0; i < 2; i++) {
        LIST_EACH(at, after, lists[i])
        {
            struct staged *staged = LIST_OWNER(at, struct staged, link);
            edition_release(staged->edition);
            list_remove(&staged->link);
            free(staged);
        }
    }
    struct edition *active = atomic_load(&control->runtime->active);
    if (active)
        edition_release(active);
    certificate_cache_release(&control->certificates);
    watch_release(&control->watch);
    free(control);
}

/* Thousands of certificates take longer than a holder waits for a sign of life. */
static void stay_alive(void *owner)
{
    struct control *control = owner;
    watch_turn(&control->watch, control->fd);
}

int control_run(struct runtime *runtime, struct edge_error *err)
{
    struct control *control = calloc(1, sizeof *control);
    char text[64];
    uint64_t count;
    if (!control)
        return error_set(err, EDGE_ERR_NOMEM, "no memory for the control thread");
    control->runtime = control->watch.runtime = runtime;
    control->fd = runtime->config->control_fd;
    list_init(&control->staged);
    list_init(&control->retired);
    certificate_cache_init(&control->certificates);
    control->certificates.turn = stay_alive;
    control->certificates.owner = control;
    bool uring = loop_kind(runtime->workers[0].proxy.loop) == EDGE_LOOP_URING;
    say(control, text,
        snprintf(text, sizeof text, "ready loop=%s workers=%u", uring ? "uring" : "epoll",
                 runtime->worker_count));
    while (!all_done(runtime)) {
        struct pollfd fds[3] = {{.fd = control->fd, .events = POLLIN},
                                {.fd = runtime->passed_fd, .events = POLLIN},
                                {.fd = runtime->signal_fd, .events = POLLIN}};
        watch_turn(&control->watch, control->fd);
        read_commit_page(control);
        if (poll(fds, 3, BEAT_MS) < 0)
            continue;
        if ((fds[1].revents & POLLIN) && read(runtime->passed_fd, &count, sizeof count) > 0)
            look_at_workers(control);
        if (fds[2].revents & POLLIN)
            read_signal(control);
        if (fds[0].revents && !hear(control))
            control->fd = -1;
    }
    /* The workers' threads are past their loops: nothing reads an edition any more. */
    say(control, "drained", 7);
    let_go(control);
    return EDGE_OK;
}
