/* The loop over epoll: for kernels and sandboxes that have no io_uring.
 *
 * Each socket is registered once, edge-triggered, for everything; what the edges said is kept as
 * READABLE and BLOCKED, so that a request costs one recv and one send a side and no call that
 * is known to fail. A send is tried where it is asked for; callbacks run from the ready queue,
 * inside run_once() only. Sockets must be non-blocking. Reached through net/loop.h only. */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/loop_ops.h"

enum { EVENTS_MAX = 512, ACCEPTS_MAX = 64 };

/* How often the ready queue is run through before the kernel is asked again: enough that a
 * request's follow-ups stay in one wake-up, bounded so that bulk does not starve new events. */
enum { ROUNDS_MAX = 8 };

enum socket_state {
    READABLE = 1,
    BLOCKED = 2, /* a send found the buffer full, or a connect is under way */
    HUNG_UP = 4, /* the peer's FIN or an error was seen: stays readable to the end */
    ADDED = 8,
    QUEUED = 16,
    CLOSING = 32,
    SENT = 64,       /* private[0] is the result to deliver */
    CONNECTED = 128, /* private[1] is the result to deliver */
    SHUT_AFTER_SEND = 256,
};

/* Listeners carry this in their event pointer; sockets and the loop are aligned. */
enum { LISTENER_TAG = 1 };

struct epoll_loop {
    struct loop loop;
    int epoll_fd;
    struct loop_socket *first_ready, **last_ready;
    uint8_t *scratch; /* one is enough: it is held during received() only */
    size_t scratch_bytes;
    unsigned accepting; /* events[0..accepting) are the listeners of this wake-up */
    struct epoll_event events[EVENTS_MAX];
};

static struct epoll_loop *of(struct loop *loop)
{
    return (struct epoll_loop *)loop;
}

static void enqueue(struct loop_socket *socket)
{
    struct epoll_loop *self = of(socket->loop);

    if (socket->state & QUEUED)
        return;
    socket->state |= QUEUED;
    socket->next = 0;
    *self->last_ready = socket;
    self->last_ready = &socket->next;
}

/* 0 or -errno. */
static int add(struct loop_socket *socket)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                .data.ptr = socket};

    if (socket->state & ADDED)
        return 0;
    if (epoll_ctl(of(socket->loop)->epoll_fd, EPOLL_CTL_ADD, socket->fd, &event) < 0)
        return -errno;
    socket->state |= ADDED;
    return 0;
}

static void finish_send(struct loop_socket *socket, int result)
{
    socket->private[0] = (uint64_t)(int64_t)result;
    socket->state |= SENT;
    enqueue(socket);
}

static void try_send(struct loop_socket *socket)
{
    while (socket->send_length) {
        ssize_t sent = send(socket->fd, socket->send_at, socket->send_length, MSG_NOSIGNAL);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN) {
            int rc = add(socket);

            socket->state |= BLOCKED;
            if (rc < 0)
                finish_send(socket, rc);
            return;
        }
        if (sent < 0) {
            finish_send(socket, -errno);
            return;
        }
        socket->send_at += sent;
        socket->send_length -= (size_t)sent;
    }
    finish_send(socket, 0);
}

static void epoll_recv(struct loop_socket *socket)
{
    /* A failed registration shows as an error of this receive, if there is nothing to read. */
    if (add(socket) < 0)
        socket->state |= READABLE;
    if (socket->state & READABLE)
        enqueue(socket);
}

static void epoll_send(struct loop_socket *socket)
{
    if (!(socket->state & BLOCKED))
        try_send(socket);
}

static void finish_connect(struct loop_socket *socket, int result)
{
    socket->private[1] = (uint64_t)(int64_t)result;
    socket->state |= CONNECTED;
    socket->state &= ~(uint32_t)BLOCKED;
    enqueue(socket);
}

static void epoll_connect(struct loop_socket *socket)
{
    int rc;

    socket->state |= BLOCKED;
    do
        rc = connect(socket->fd, (struct sockaddr *)&socket->peer, socket->peer_length);
    while (rc < 0 && errno == EINTR);
    if (rc < 0 && errno != EINPROGRESS) {
        finish_connect(socket, -errno);
        return;
    }
    if (rc < 0)
        rc = add(socket);
    else
        finish_connect(socket, 0);
    if (rc < 0)
        finish_connect(socket, rc);
}

static void epoll_shutdown(struct loop_socket *socket)
{
    if (socket->pending & PENDING_SEND && !(socket->state & SENT))
        socket->state |= SHUT_AFTER_SEND;
    else
        shutdown(socket->fd, SHUT_WR);
}

static void epoll_close(struct loop_socket *socket)
{
    assert(!(socket->state & CLOSING));
    socket->state |= CLOSING;
    close(socket->fd); /* leaves the epoll set by it */
    socket->fd = -1;
    enqueue(socket);
}

static void epoll_arm(struct loop_listener *listener)
{
    struct epoll_event event = {.events = EPOLLIN,
                                .data.ptr = (void *)((uintptr_t)listener | LISTENER_TAG)};

    if (epoll_ctl(of(listener->loop)->epoll_fd, EPOLL_CTL_ADD, listener->fd, &event) < 0)
        loop_accept_failed(listener, ENOMEM);
    else
        listener->state |= LISTENER_ARMED;
}

static void unregister(struct loop_listener *listener)
{
    struct epoll_loop *self = of(listener->loop);

    epoll_ctl(self->epoll_fd, EPOLL_CTL_DEL, listener->fd, 0);
    listener->state &= ~(uint32_t)LISTENER_ARMED;
    for (unsigned i = 0; i < self->accepting; i++)
        if (self->events[i].data.ptr == (void *)((uintptr_t)listener | LISTENER_TAG))
            self->events[i].data.ptr = 0;
}

static void epoll_disarm(struct loop_listener *listener)
{
    unregister(listener);
    loop_listener_left(listener);
}

/* Level-triggered: what is not taken now is reported again. */
static unsigned accept_some(struct loop_listener *listener)
{
    unsigned count = 0;

    while (count < ACCEPTS_MAX && listener->state & LISTENER_ARMED) {
        int fd = accept4(listener->fd, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC);
        int result = fd < 0 ? -errno : fd;

        if (result == -EAGAIN)
            break;
        /* Errors of that one connection (accept(2), "Error handling"). */
        if (result == -EINTR || result == -ECONNABORTED || result == -EPROTO)
            continue;
        count++;
        if (result < 0) {
            /* An unknown error is paused as well: it would come again at once. */
            if (!loop_accept_failed(listener, -result))
                loop_accept_failed(listener, ENOMEM);
            unregister(listener);
        }
        listener->accepted(listener, result);
    }
    return count;
}

static void note(struct loop_socket *socket, uint32_t events)
{
    if (events & (EPOLLERR | EPOLLHUP))
        socket->state |= READABLE | HUNG_UP;
    if (events & EPOLLRDHUP)
        socket->state |= READABLE | HUNG_UP;
    if (events & EPOLLIN)
        socket->state |= READABLE;
    if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
        socket->state &= ~(uint32_t)BLOCKED;
    if (socket->pending & PENDING_CONNECT) {
        int result = 0;
        socklen_t length = sizeof(result);

        if (socket->state & (CONNECTED | BLOCKED))
            return;
        if (getsockopt(socket->fd, SOL_SOCKET, SO_ERROR, &result, &length) < 0)
            result = errno;
        finish_connect(socket, -result);
        return;
    }
    if ((socket->pending & PENDING_RECV && socket->state & READABLE) ||
        (socket->pending & PENDING_SEND && !(socket->state & BLOCKED)))
        enqueue(socket);
}

static unsigned run_recv(struct epoll_loop *self, struct loop_socket *socket)
{
    uint8_t *at = socket->recv_at ? socket->recv_at : self->scratch;
    size_t length = socket->recv_at ? socket->recv_length : self->scratch_bytes;
    ssize_t got;

    LOOP_UNPOISON(self->scratch, self->scratch_bytes);
    do
        got = recv(socket->fd, at, length, 0);
    while (got < 0 && errno == EINTR);
    if (got < 0 && errno == EAGAIN) {
        socket->state &= ~(uint32_t)READABLE;
        if (socket->state & ADDED)
            return 0;
        errno = ENOMEM; /* nobody would tell when there is something */
    }
    /* A short read has emptied the queue: the next byte, or FIN, raises a new edge. */
    if (got > 0 && (size_t)got < length && !(socket->state & HUNG_UP))
        socket->state &= ~(uint32_t)READABLE;
    socket->pending &= ~(uint32_t)PENDING_RECV;
    socket->on->received(socket, at, got < 0 ? -errno : (int)got);
    LOOP_POISON(self->scratch, self->scratch_bytes);
    return 1;
}

static unsigned run_ready(struct epoll_loop *self, struct loop_socket *socket)
{
    unsigned count = 0;

    if (socket->state & CLOSING) {
        socket->on->closed(socket);
        return 1;
    }
    if (socket->state & CONNECTED) {
        socket->state &= ~(uint32_t)CONNECTED;
        socket->pending &= ~(uint32_t)PENDING_CONNECT;
        socket->on->connected(socket, (int)(int64_t)socket->private[1]);
        count++;
    }
    if (!(socket->state & (CLOSING | SENT)) && socket->pending & PENDING_SEND &&
        !(socket->state & BLOCKED))
        try_send(socket);
    if (!(socket->state & CLOSING) && socket->state & SENT) {
        socket->state &= ~(uint32_t)SENT;
        socket->pending &= ~(uint32_t)PENDING_SEND;
        if (socket->state & SHUT_AFTER_SEND)
            shutdown(socket->fd, SHUT_WR);
        socket->on->sent(socket, (int)(int64_t)socket->private[0]);
        count++;
    }
    if (!(socket->state & CLOSING) && socket->pending & PENDING_RECV && socket->state & READABLE)
        count += run_recv(self, socket);
    return count;
}

static int epoll_run_once(struct loop *loop, int timeout_ms)
{
    struct epoll_loop *self = of(loop);
    int wait_ms = self->first_ready ? 0 : loop_wait_ms(loop, timeout_ms);
    int ready = epoll_wait(self->epoll_fd, self->events, EVENTS_MAX, wait_ms);
    unsigned count = 0;
    uint64_t wakes;

    if (ready < 0 && errno != EINTR)
        return EDGE_ERR_SYSTEM;
    loop_read_clock(loop);
    /* No callback in this pass: nothing that an event points at can go away during it. */
    for (int i = 0; i < ready; i++) {
        struct epoll_event *event = &self->events[i];

        if (event->data.ptr == loop) {
            while (read(loop->wake_fd, &wakes, sizeof(wakes)) < 0 && errno == EINTR)
                continue;
            count++;
        } else if ((uintptr_t)event->data.ptr & LISTENER_TAG) {
            self->events[self->accepting++].data.ptr = event->data.ptr;
        } else {
            note(event->data.ptr, event->events);
        }
    }
    for (unsigned round = 0; round < ROUNDS_MAX && self->first_ready; round++) {
        /* What this round adds waits for the next: a socket runs at most once a round. */
        struct loop_socket *first = self->first_ready;

        self->first_ready = 0;
        self->last_ready = &self->first_ready;
        while (first) {
            struct loop_socket *socket = first;

            first = socket->next;
            socket->state &= ~(uint32_t)QUEUED;
            count += run_ready(self, socket);
        }
    }
    for (unsigned i = 0; i < self->accepting; i++) {
        uintptr_t at = (uintptr_t)self->events[i].data.ptr & ~(uintptr_t)LISTENER_TAG;

        if (at)
            count += accept_some((struct loop_listener *)at);
    }
    self->accepting = 0;
    loop_resume_accepts(loop);
    return (int)count;
}

static int epoll_enable(struct loop *loop, struct edge_error *err)
{
    (void)loop;
    (void)err;
    return EDGE_OK;
}

static void epoll_destroy(struct loop *loop)
{
    struct epoll_loop *self = of(loop);

    if (self->epoll_fd >= 0)
        close(self->epoll_fd);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    free(self->scratch);
    free(self);
}

static const struct loop_ops epoll_ops = {
    .enable = epoll_enable,
    .destroy = epoll_destroy,
    .arm = epoll_arm,
    .disarm = epoll_disarm,
    .recv = epoll_recv,
    .send = epoll_send,
    .connect = epoll_connect,
    .shutdown = epoll_shutdown,
    .close = epoll_close,
    .run_once = epoll_run_once,
};

int loop_epoll_create(const struct loop_options *options, struct loop **out, struct edge_error *err)
{
    struct epoll_loop *self = calloc(1, sizeof(*self));
    struct epoll_event event = {.events = EPOLLIN};
    int rc;

    if (!self)
        return loop_fail(err, ENOMEM, "epoll loop");
    self->loop.ops = &epoll_ops;
    self->loop.kind = EDGE_LOOP_EPOLL;
    self->last_ready = &self->first_ready;
    self->scratch_bytes = options->shared_buffer_bytes;
    self->scratch = malloc(self->scratch_bytes);
    self->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    self->loop.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    event.data.ptr = &self->loop;
    if (!self->scratch || self->epoll_fd < 0 || self->loop.wake_fd < 0 ||
        epoll_ctl(self->epoll_fd, EPOLL_CTL_ADD, self->loop.wake_fd, &event) < 0) {
        rc = loop_fail(err, errno, "epoll loop");
        epoll_destroy(&self->loop);
        return rc;
    }
    *out = &self->loop;
    return EDGE_OK;
}
