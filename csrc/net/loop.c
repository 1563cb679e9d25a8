/* The public face of net/loop.h: chooses an implementation, checks the rules, hands over.
 *
 * Also the parts that do not depend on the implementation: the accept pause, the list of
 * listeners, the clock, waking. Called by worker/, transports and tests. */
#include "net/loop.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "net/loop_ops.h"

/* Long enough not to spin on EMFILE, short against any client's patience. */
#define ACCEPT_PAUSE_NS 100000000ULL

int loop_fail(struct edge_error *err, int sys_errno, const char *reason)
{
    memset(err, 0, sizeof(*err));
    err->code = EDGE_ERR_SYSTEM;
    err->sys_errno = sys_errno;
    snprintf(err->reason, sizeof(err->reason), "%s: %s", reason, strerror(sys_errno));
    return EDGE_ERR_SYSTEM;
}

void loop_read_clock(struct loop *loop)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    loop->now_ns = (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

int loop_wait_ms(const struct loop *loop, int timeout_ms)
{
    uint64_t left_ms;

    if (!loop->resume_ns)
        return timeout_ms;
    if (loop->resume_ns <= loop->now_ns)
        return 0;
    left_ms = (loop->resume_ns - loop->now_ns + 999999) / 1000000;
    return timeout_ms < 0 || (uint64_t)timeout_ms > left_ms ? (int)left_ms : timeout_ms;
}

void loop_resume_accepts(struct loop *loop)
{
    if (!loop->resume_ns || loop->now_ns < loop->resume_ns)
        return;
    loop->resume_ns = 0;
    for (struct loop_listener *at = loop->listeners; at; at = at->next) {
        if (!(at->state & LISTENER_PAUSED))
            continue;
        at->state &= ~(uint32_t)LISTENER_PAUSED;
        loop->ops->arm(at);
    }
}

bool loop_accept_failed(struct loop_listener *listener, int sys_errno)
{
    if (sys_errno != EMFILE && sys_errno != ENFILE && sys_errno != ENOBUFS && sys_errno != ENOMEM)
        return false;
    listener->state |= LISTENER_PAUSED;
    if (!listener->loop->resume_ns)
        listener->loop->resume_ns = listener->loop->now_ns + ACCEPT_PAUSE_NS;
    return true;
}

void loop_listener_left(struct loop_listener *listener)
{
    struct loop_listener **at = &listener->loop->listeners;

    while (*at != listener)
        at = &(*at)->next;
    *at = listener->next;
    listener->next = 0;
    listener->state = 0;
    listener->loop = 0;
}

int loop_create(const struct loop_options *options, struct loop **out, struct edge_error *err)
{
    int rc;

    if (!options->shared_buffers || (options->shared_buffers & (options->shared_buffers - 1)) ||
        options->shared_buffers > 32768 || !options->shared_buffer_bytes) {
        memset(err, 0, sizeof(*err));
        err->code = EDGE_ERR_INVALID;
        snprintf(err->field, sizeof(err->field), "shared_buffers");
        snprintf(err->reason, sizeof(err->reason), "not a power of two up to 32768");
        return EDGE_ERR_INVALID;
    }
    if (options->kind == EDGE_LOOP_EPOLL)
        rc = loop_epoll_create(options, out, err);
    else
        rc = loop_uring_create(options, out, err);
    /* Container runtimes' seccomp profiles and kernel.io_uring_disabled end up here. */
    if (rc != EDGE_OK && options->kind == EDGE_LOOP_AUTO)
        rc = loop_epoll_create(options, out, err);
    if (rc == EDGE_OK)
        list_init(&(*out)->deferred);
    return rc;
}

int loop_enable(struct loop *loop, struct edge_error *err)
{
    loop_read_clock(loop);
    return loop->ops->enable(loop, err);
}

void loop_destroy(struct loop *loop)
{
    if (loop)
        loop->ops->destroy(loop);
}

enum edge_loop_kind loop_kind(const struct loop *loop)
{
    return loop->kind;
}

uint64_t loop_now_ns(const struct loop *loop)
{
    return loop->now_ns;
}

void loop_wake(struct loop *loop)
{
    uint64_t one = 1;

    /* EAGAIN: the counter is full, so the loop is awake anyway. */
    while (write(loop->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        continue;
}

void loop_listen(struct loop *loop, struct loop_listener *listener)
{
    int one = 1;
    int flags = fcntl(listener->fd, F_GETFL);

    assert(!(listener->state & LISTENER_WANTED));
    /* Accepted sockets inherit it: no call for each connection. */
    setsockopt(listener->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (flags >= 0 && !(flags & O_NONBLOCK))
        fcntl(listener->fd, F_SETFL, flags | O_NONBLOCK);
    listener->state |= LISTENER_WANTED;
    if (listener->state & LISTENER_LEAVING) /* armed again when the old accept has ended */
        return;
    listener->loop = loop;
    listener->next = loop->listeners;
    loop->listeners = listener;
    loop->ops->arm(listener);
}

void loop_unlisten(struct loop_listener *listener)
{
    if (!(listener->state & LISTENER_WANTED))
        return;
    listener->state &= ~(uint32_t)(LISTENER_WANTED | LISTENER_PAUSED);
    if (!(listener->state & LISTENER_ARMED)) {
        loop_listener_left(listener);
        return;
    }
    if (!(listener->state & LISTENER_LEAVING))
        listener->loop->ops->disarm(listener);
}

void loop_socket_init(struct loop *loop, struct loop_socket *socket, int fd,
                      const struct loop_handlers *on)
{
    memset(socket, 0, sizeof(*socket));
    socket->loop = loop;
    socket->on = on;
    socket->fd = fd;
}

void loop_recv(struct loop_socket *socket)
{
    loop_recv_into(socket, 0, 0);
}

void loop_recv_into(struct loop_socket *socket, uint8_t *buffer, size_t length)
{
    assert(!(socket->pending & PENDING_RECV));
    socket->pending |= PENDING_RECV;
    socket->recv_at = buffer;
    socket->recv_length = length > INT32_MAX ? INT32_MAX : (uint32_t)length;
    socket->loop->ops->recv(socket);
}

void loop_send(struct loop_socket *socket, const uint8_t *buffer, size_t length)
{
    assert(!(socket->pending & PENDING_SEND));
    socket->pending |= PENDING_SEND;
    socket->send_at = buffer;
    socket->send_length = length;
    socket->loop->ops->send(socket);
}

void loop_connect(struct loop_socket *socket, const struct sockaddr *peer, socklen_t length)
{
    assert(!socket->pending && length <= sizeof(socket->peer));
    socket->pending |= PENDING_CONNECT;
    memcpy(&socket->peer, peer, length);
    socket->peer_length = length;
    socket->loop->ops->connect(socket);
}

void loop_shutdown(struct loop_socket *socket)
{
    socket->loop->ops->shutdown(socket);
}

void loop_close(struct loop_socket *socket)
{
    socket->loop->ops->close(socket);
}

void loop_defer(struct loop *loop, struct loop_deferred *deferred)
{
    if (list_empty(&deferred->link))
        list_push_back(&loop->deferred, &deferred->link);
}

int loop_run_once(struct loop *loop, int timeout_ms)
{
    int count = loop->ops->run_once(loop, list_empty(&loop->deferred) ? timeout_ms : 0);
    struct list batch, *link;

    if (count < 0)
        return count;
    /* What these defer again waits for the next iteration: events come in between. */
    list_init(&batch);
    list_splice(&batch, &loop->deferred);
    while ((link = list_pop_front(&batch))) {
        struct loop_deferred *deferred = LIST_OWNER(link, struct loop_deferred, link);

        deferred->run(deferred);
        count++;
    }
    return count;
}
