/* The loop over io_uring: one system call an iteration, whatever happens in it.
 *
 * The ring is made disabled and restricted before the sandbox is entered (seccomp does not see
 * ring operations) and enabled by its worker. SINGLE_ISSUER with DEFER_TASKRUN is a condition,
 * not a wish: without it a request costs 1.35 times as much, and connections that wait in a
 * listener's queue are reset when the process dies. user_data is the owner's address with the
 * operation in its low bits; an owner is let go only when all of its completions have come, so
 * none can meet reused memory. Reached through net/loop.h only. */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "net/loop_ops.h"

enum {
    SQ_ENTRIES = 1024,
    CQ_ENTRIES = 16384, /* over it the kernel keeps a list: slower, nothing is lost */
    BUFFER_GROUP = 1,
};

enum operation {
    OP_RECV = 0,
    OP_SEND = 1,
    OP_CONNECT = 2,
    OP_CLOSE = 3,
    OP_CANCEL = 4,
    OP_ACCEPT = 5,
    OP_ACCEPT_CANCEL = 6,
    OP_WAKE = 7,
    OP_MASK = 7,
};

enum socket_state {
    CLOSING = 1,
    CANCELLING = 2, /* the cancel's own completion is outstanding */
    SHUT_AFTER_SEND = 4,
    STARVED = 8, /* in the list of receives that found no shared buffer */
};

/* What a compromised worker could make the ring do: exactly these, nothing that opens, binds or
 * makes a socket. */
static const uint8_t allowed_operations[] = {
    IORING_OP_ACCEPT, IORING_OP_RECV,         IORING_OP_SEND, IORING_OP_CONNECT,
    IORING_OP_CLOSE,  IORING_OP_ASYNC_CANCEL, IORING_OP_READ,
};
static const uint8_t allowed_registrations[] = {
    IORING_REGISTER_ENABLE_RINGS,
    IORING_REGISTER_PBUF_RING,
    IORING_REGISTER_RING_FDS,
};

struct uring_loop {
    struct loop loop;
    struct io_uring ring;
    struct io_uring_buf_ring *buffers;
    uint8_t *pool;
    uint32_t buffer_count, buffer_bytes;
    struct loop_socket *starved; /* receives to be asked again after the batch */
    uint64_t wakes;
    bool ring_made;
};

static struct uring_loop *of(struct loop *loop)
{
    return (struct uring_loop *)loop;
}

static struct io_uring_sqe *take_sqe(struct uring_loop *self, void *owner, enum operation op)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&self->ring);

    /* Full: hand it over in between. Completions stay in their own ring, no callback runs. */
    while (!sqe) {
        io_uring_submit(&self->ring);
        sqe = io_uring_get_sqe(&self->ring);
    }
    io_uring_prep_nop(sqe); /* clears what the prep functions of 2.3 leave */
    sqe->user_data = (uint64_t)(uintptr_t)owner | op;
    return sqe;
}

static void prepare(struct io_uring_sqe *sqe, int op, int fd, const void *at, uint32_t length)
{
    sqe->opcode = (uint8_t)op;
    sqe->fd = fd;
    sqe->addr = (uint64_t)(uintptr_t)at;
    sqe->len = length;
}

/* ---- Shared buffers ---------------------------------------------------------------------- */

static void give_buffer(struct uring_loop *self, unsigned id)
{
    uint8_t *at = self->pool + (size_t)id * self->buffer_bytes;

    LOOP_POISON(at, self->buffer_bytes);
    io_uring_buf_ring_add(self->buffers, at, self->buffer_bytes, (unsigned short)id,
                          (int)self->buffer_count - 1, 0);
    io_uring_buf_ring_advance(self->buffers, 1);
}

static void *map(size_t bytes)
{
    void *at =
        mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    return at == MAP_FAILED ? 0 : at;
}

/* ---- Sockets ----------------------------------------------------------------------------- */

static void uring_recv(struct loop_socket *socket)
{
    struct io_uring_sqe *sqe = take_sqe(of(socket->loop), socket, OP_RECV);

    prepare(sqe, IORING_OP_RECV, socket->fd, socket->recv_at, socket->recv_length);
    if (socket->recv_at)
        return;
    sqe->flags = IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUFFER_GROUP;
}

static void uring_send(struct loop_socket *socket)
{
    struct io_uring_sqe *sqe = take_sqe(of(socket->loop), socket, OP_SEND);
    size_t length = socket->send_length > INT32_MAX ? INT32_MAX : socket->send_length;

    prepare(sqe, IORING_OP_SEND, socket->fd, socket->send_at, (uint32_t)length);
    sqe->msg_flags = MSG_WAITALL | MSG_NOSIGNAL;
}

static void uring_connect(struct loop_socket *socket)
{
    struct io_uring_sqe *sqe = take_sqe(of(socket->loop), socket, OP_CONNECT);

    prepare(sqe, IORING_OP_CONNECT, socket->fd, &socket->peer, 0);
    sqe->off = socket->peer_length;
}

/* By system call: the ring would give it to a kernel thread (io_shutdown() always blocks). */
static void uring_shutdown(struct loop_socket *socket)
{
    if (socket->pending & PENDING_SEND)
        socket->state |= SHUT_AFTER_SEND;
    else
        shutdown(socket->fd, SHUT_WR);
}

static void close_when_idle(struct loop_socket *socket)
{
    if (socket->pending || socket->state & CANCELLING)
        return;
    prepare(take_sqe(of(socket->loop), socket, OP_CLOSE), IORING_OP_CLOSE, socket->fd, 0, 0);
    socket->fd = -1;
}

static void unstarve(struct loop_socket *socket)
{
    struct loop_socket **at = &of(socket->loop)->starved;

    while (*at != socket)
        at = &(*at)->next;
    *at = socket->next;
    socket->state &= ~(uint32_t)STARVED;
}

static void uring_close(struct loop_socket *socket)
{
    assert(!(socket->state & CLOSING));
    socket->state |= CLOSING;
    if (socket->state & STARVED) {
        unstarve(socket);
        socket->pending &= ~(uint32_t)PENDING_RECV;
    }
    if (socket->pending) {
        struct io_uring_sqe *sqe = take_sqe(of(socket->loop), socket, OP_CANCEL);

        prepare(sqe, IORING_OP_ASYNC_CANCEL, socket->fd, 0, 0);
        sqe->cancel_flags = IORING_ASYNC_CANCEL_FD | IORING_ASYNC_CANCEL_ALL;
        socket->state |= CANCELLING;
    }
    close_when_idle(socket);
}

static unsigned end_recv(struct uring_loop *self, struct loop_socket *socket, int result,
                         uint32_t flags)
{
    unsigned id = flags >> IORING_CQE_BUFFER_SHIFT;
    bool holds = flags & IORING_CQE_F_BUFFER;
    unsigned count = 0;

    if (result == -ENOBUFS && !socket->recv_at && !(socket->state & CLOSING)) {
        socket->state |= STARVED;
        socket->next = self->starved;
        self->starved = socket;
        return 0;
    }
    socket->pending &= ~(uint32_t)PENDING_RECV;
    if (socket->state & CLOSING) {
        close_when_idle(socket);
    } else if (result == -EINTR) {
        socket->pending |= PENDING_RECV;
        uring_recv(socket);
    } else {
        uint8_t *at = holds ? self->pool + (size_t)id * self->buffer_bytes : socket->recv_at;

        if (holds && result > 0)
            LOOP_UNPOISON(at, (size_t)result);
        socket->on->received(socket, at, result);
        count = 1;
    }
    if (holds)
        give_buffer(self, id);
    return count;
}

static unsigned end_send(struct loop_socket *socket, int result)
{
    if (!(socket->state & CLOSING) && (result > 0 || result == -EINTR)) {
        if (result > 0) {
            socket->send_at += result;
            socket->send_length -= (size_t)result;
        }
        if (socket->send_length) {
            uring_send(socket);
            return 0;
        }
        result = 0;
    }
    socket->pending &= ~(uint32_t)PENDING_SEND;
    if (socket->state & CLOSING) {
        close_when_idle(socket);
        return 0;
    }
    if (socket->state & SHUT_AFTER_SEND)
        shutdown(socket->fd, SHUT_WR);
    socket->on->sent(socket, result);
    return 1;
}

static unsigned end_connect(struct loop_socket *socket, int result)
{
    socket->pending &= ~(uint32_t)PENDING_CONNECT;
    if (socket->state & CLOSING) {
        close_when_idle(socket);
        return 0;
    }
    socket->on->connected(socket, result);
    return 1;
}

/* ---- Listeners and waking ---------------------------------------------------------------- */

static void uring_arm(struct loop_listener *listener)
{
    struct io_uring_sqe *sqe = take_sqe(of(listener->loop), listener, OP_ACCEPT);

    prepare(sqe, IORING_OP_ACCEPT, listener->fd, 0, 0);
    sqe->accept_flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
    sqe->ioprio = listener->one_by_one ? 0 : IORING_ACCEPT_MULTISHOT;
    listener->state |= LISTENER_ARMED;
}

static void uring_disarm(struct loop_listener *listener)
{
    struct io_uring_sqe *sqe = take_sqe(of(listener->loop), listener, OP_ACCEPT_CANCEL);

    prepare(sqe, IORING_OP_ASYNC_CANCEL, -1, (char *)listener + OP_ACCEPT, 0);
    listener->state |= LISTENER_LEAVING;
}

static void settle(struct loop_listener *listener)
{
    if (!listener->loop || listener->state & (LISTENER_ARMED | LISTENER_LEAVING))
        return; /* no loop: accepted() has unlistened */
    if (!(listener->state & LISTENER_WANTED))
        loop_listener_left(listener);
    else if (!(listener->state & LISTENER_PAUSED))
        uring_arm(listener);
}

static unsigned end_accept(struct loop_listener *listener, int result, uint32_t flags)
{
    unsigned count = 0;

    if (!(flags & IORING_CQE_F_MORE))
        listener->state &= ~(uint32_t)LISTENER_ARMED;
    if (result < 0 && listener->state & LISTENER_WANTED && result != -EINTR && result != -EAGAIN &&
        result != -ECONNABORTED && result != -EPROTO && result != -ECANCELED) {
        /* An unknown error is paused as well: it would come again at once. */
        if (!loop_accept_failed(listener, -result))
            loop_accept_failed(listener, ENOMEM);
        listener->accepted(listener, result);
        count = 1;
    } else if (result >= 0) {
        listener->accepted(listener, result);
        count = 1;
    }
    if (!(flags & IORING_CQE_F_MORE))
        settle(listener);
    return count;
}

static void end_accept_cancel(struct loop_listener *listener)
{
    listener->state &= ~(uint32_t)LISTENER_LEAVING;
    settle(listener);
}

static void read_wakes(struct uring_loop *self)
{
    prepare(take_sqe(self, self, OP_WAKE), IORING_OP_READ, self->loop.wake_fd, &self->wakes,
            sizeof(self->wakes));
}

/* ---- Running ----------------------------------------------------------------------------- */

static unsigned complete(struct uring_loop *self, const struct io_uring_cqe *cqe)
{
    void *owner = (void *)(uintptr_t)(cqe->user_data & ~(uint64_t)OP_MASK);
    struct loop_socket *socket = owner;

    switch ((enum operation)(cqe->user_data & OP_MASK)) {
    case OP_RECV:
        return end_recv(self, socket, cqe->res, cqe->flags);
    case OP_SEND:
        return end_send(socket, cqe->res);
    case OP_CONNECT:
        return end_connect(socket, cqe->res);
    case OP_CLOSE:
        socket->on->closed(socket);
        return 1;
    case OP_CANCEL:
        socket->state &= ~(uint32_t)CANCELLING;
        close_when_idle(socket);
        return 0;
    case OP_ACCEPT:
        return end_accept(owner, cqe->res, cqe->flags);
    case OP_ACCEPT_CANCEL:
        end_accept_cancel(owner);
        return 0;
    case OP_WAKE:
        read_wakes(self);
        return 1;
    }
    return 0;
}

/* The kernel has no memory for requests, so it did not wait either: not asked again at once. What
 * was not submitted stays in the ring. */
static void wait_for_memory(struct uring_loop *self)
{
    const struct timespec pause = {.tv_nsec = 1000000};

    if (io_uring_cq_ready(&self->ring) == 0)
        nanosleep(&pause, 0);
}

static int uring_run_once(struct loop *loop, int timeout_ms)
{
    struct uring_loop *self = of(loop);
    int wait_ms = loop_wait_ms(loop, timeout_ms);
    struct __kernel_timespec limit = {.tv_sec = wait_ms / 1000,
                                      .tv_nsec = (long long)(wait_ms % 1000) * 1000000};
    struct io_uring_cqe *first;
    unsigned ready, count = 0;
    int rc = io_uring_submit_and_wait_timeout(&self->ring, &first, 1, wait_ms < 0 ? 0 : &limit, 0);

    if (rc == -ENOMEM || rc == -EAGAIN)
        wait_for_memory(self);
    else if (rc < 0 && rc != -ETIME && rc != -EINTR && rc != -EBUSY)
        return EDGE_ERR_SYSTEM;
    loop_read_clock(loop);
    /* Only what was there at the wake-up: callbacks may submit, and so add completions. */
    ready = io_uring_cq_ready(&self->ring);
    while (ready--) {
        struct io_uring_cqe cqe =
            self->ring.cq.cqes[*self->ring.cq.khead & self->ring.cq.ring_mask];

        io_uring_cq_advance(&self->ring, 1);
        count += complete(self, &cqe);
    }
    /* All buffers of the batch are back, so at least one of these gets one. */
    while (self->starved) {
        struct loop_socket *socket = self->starved;

        unstarve(socket);
        uring_recv(socket);
    }
    loop_resume_accepts(loop);
    return (int)count;
}

static int uring_enable(struct loop *loop, struct edge_error *err)
{
    struct uring_loop *self = of(loop);
    int rc = io_uring_enable_rings(&self->ring);

    if (rc < 0)
        return loop_fail(err, -rc, "enabling the io_uring ring");
    read_wakes(self);
    return EDGE_OK;
}

static void uring_destroy(struct loop *loop)
{
    struct uring_loop *self = of(loop);

    if (self->ring_made)
        io_uring_queue_exit(&self->ring);
    if (self->buffers)
        munmap(self->buffers, self->buffer_count * sizeof(struct io_uring_buf));
    if (self->pool)
        LOOP_UNPOISON(self->pool, (size_t)self->buffer_count * self->buffer_bytes);
    if (self->pool)
        munmap(self->pool, (size_t)self->buffer_count * self->buffer_bytes);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    free(self);
}

static const struct loop_ops uring_ops = {
    .enable = uring_enable,
    .destroy = uring_destroy,
    .arm = uring_arm,
    .disarm = uring_disarm,
    .recv = uring_recv,
    .send = uring_send,
    .connect = uring_connect,
    .shutdown = uring_shutdown,
    .close = uring_close,
    .run_once = uring_run_once,
};

/* ---- Making ------------------------------------------------------------------------------ */

static int make_pool(struct uring_loop *self, const struct loop_options *options)
{
    struct io_uring_buf_reg reg = {.ring_entries = options->shared_buffers, .bgid = BUFFER_GROUP};

    self->buffer_count = options->shared_buffers;
    self->buffer_bytes = options->shared_buffer_bytes;
    /* The kernel takes them in turn, so traffic touches all of them: now, and not as growth. */
    self->pool = map((size_t)self->buffer_count * self->buffer_bytes);
    self->buffers = map(self->buffer_count * sizeof(struct io_uring_buf));
    if (!self->pool || !self->buffers)
        return -ENOMEM;
    reg.ring_addr = (uint64_t)(uintptr_t)self->buffers;
    io_uring_buf_ring_init(self->buffers);
    for (unsigned i = 0; i < self->buffer_count; i++)
        give_buffer(self, i);
    return io_uring_register_buf_ring(&self->ring, &reg, 0);
}

static int restrict_ring(struct uring_loop *self)
{
    enum { OPERATIONS = sizeof(allowed_operations), REGISTRATIONS = sizeof(allowed_registrations) };
    struct io_uring_restriction rules[OPERATIONS + REGISTRATIONS + 1] = {0};
    unsigned count = 0;

    for (unsigned i = 0; i < OPERATIONS; i++) {
        rules[count].opcode = IORING_RESTRICTION_SQE_OP;
        rules[count++].sqe_op = allowed_operations[i];
    }
    for (unsigned i = 0; i < REGISTRATIONS; i++) {
        rules[count].opcode = IORING_RESTRICTION_REGISTER_OP;
        rules[count++].register_op = allowed_registrations[i];
    }
    rules[count].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    rules[count++].sqe_flags = IOSQE_BUFFER_SELECT;
    return io_uring_register_restrictions(&self->ring, rules, count);
}

int loop_uring_create(const struct loop_options *options, struct loop **out, struct edge_error *err)
{
    struct uring_loop *self = calloc(1, sizeof(*self));
    struct io_uring_params params = {
        .flags = IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                 IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
        .cq_entries = CQ_ENTRIES,
    };
    int rc;

    if (!self)
        return loop_fail(err, ENOMEM, "io_uring loop");
    self->loop.ops = &uring_ops;
    self->loop.kind = EDGE_LOOP_URING;
    self->loop.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    rc = self->loop.wake_fd < 0 ? -errno
                                : io_uring_queue_init_params(SQ_ENTRIES, &self->ring, &params);
    if (rc < 0) {
        /* EINVAL: a kernel before 6.1; EPERM: switched off, or a container's seccomp profile. */
        loop_fail(err, -rc, "making an io_uring ring (SINGLE_ISSUER, DEFER_TASKRUN)");
        goto fail;
    }
    self->ring_made = true;
    if (!(params.features & IORING_FEAT_EXT_ARG) || !(params.features & IORING_FEAT_NODROP)) {
        loop_fail(err, ENOSYS, "io_uring without EXT_ARG and NODROP");
        goto fail;
    }
    rc = make_pool(self, options);
    if (rc < 0) {
        loop_fail(err, -rc, "registering the shared receive buffers");
        goto fail;
    }
    rc = restrict_ring(self);
    if (rc < 0) {
        loop_fail(err, -rc, "restricting the io_uring ring");
        goto fail;
    }
    *out = &self->loop;
    return EDGE_OK;
fail:
    uring_destroy(&self->loop);
    return EDGE_ERR_SYSTEM;
}
