/* The completion interface that workers live on: accept, connect, recv, send, close, wake.
 *
 * Two implementations, chosen at run time: loop_uring.c and loop_epoll.c. Callers cannot tell
 * them apart; the same tests run over both. A loop belongs to one thread; only loop_wake() may be
 * called by others. Timers are not here: base/wheel.h gives the timeout of loop_run_once().
 *
 * Rules: at most one receive and one send outstanding a socket. No callback runs inside the call
 * that asked for it, all run inside loop_run_once(). After loop_close() the only callback that
 * still comes is closed(), after which the socket's memory is the caller's again. */
#ifndef EDGE_NET_LOOP_H
#define EDGE_NET_LOOP_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/list.h"
#include "include/edge.h"

struct loop;
struct loop_socket;
struct loop_listener;

struct loop_handlers {
    /* length > 0: bytes at data (valid in this call only after loop_recv, the caller's own after
     * loop_recv_into); 0: the peer ended its side; < 0: -errno. */
    void (*received)(struct loop_socket *socket, uint8_t *data, int length);
    /* 0: everything was handed to the kernel, the buffer is free again; < 0: -errno. */
    void (*sent)(struct loop_socket *socket, int result);
    void (*connected)(struct loop_socket *socket, int result);
    void (*closed)(struct loop_socket *socket);
};

/* Embedded in its owner (a transport); zeroed, then loop_socket_init(). */
struct loop_socket {
    struct loop *loop;
    const struct loop_handlers *on;
    int fd;
    /* The rest is the implementation's. */
    uint32_t state;
    uint32_t pending;
    uint8_t *recv_at;
    uint32_t recv_length;
    const uint8_t *send_at;
    size_t send_length;
    struct sockaddr_storage peer; /* of a connect */
    socklen_t peer_length;
    struct loop_socket *next, *previous;
    uint64_t private[2];
};

struct loop_listener {
    int fd;
    /* fd >= 0: a connection, non-blocking, TCP_NODELAY set; < 0: -errno (EMFILE, ENFILE, ENOBUFS,
     * ENOMEM: accepting pauses for 100 ms by itself, and goes on). */
    void (*accepted)(struct loop_listener *listener, int fd);
    void *owner;
    bool
        one_by_one; /* never more than one beyond what accepted() wants; set before loop_listen() */
    struct loop *loop;
    uint32_t state;
    struct loop_listener *next;
};

struct loop_options {
    enum edge_loop_kind kind; /* AUTO: uring where all of it can be had, else epoll */
    uint32_t shared_buffers;  /* a power of two */
    uint32_t shared_buffer_bytes;
};

/* Make a loop before the sandbox is entered: rings disabled and restricted, memory allocated. */
int loop_create(const struct loop_options *options, struct loop **out, struct edge_error *err);
/* In the worker's own thread, inside the sandbox: the ring becomes this thread's. */
int loop_enable(struct loop *loop, struct edge_error *err);
void loop_destroy(struct loop *loop);
enum edge_loop_kind loop_kind(const struct loop *loop);

void loop_listen(struct loop *loop, struct loop_listener *listener);
/* Connections that the kernel has queued stay in the queue for whoever accepts next. What was
 * taken before still comes to accepted(); listener->loop is 0 when none can come any more, and
 * only then (and not inside accepted()) is the listener's memory the caller's again. */
void loop_unlisten(struct loop_listener *listener);

void loop_socket_init(struct loop *loop, struct loop_socket *socket, int fd,
                      const struct loop_handlers *on);
/* Receive into a buffer of the shared pool, held only during received(). For heads and idle
 * connections: a waiting connection owns no buffer. */
void loop_recv(struct loop_socket *socket);
void loop_recv_into(struct loop_socket *socket, uint8_t *buffer, size_t length);
/* Send all of it; partial sends are continued by the loop. */
void loop_send(struct loop_socket *socket, const uint8_t *buffer, size_t length);
void loop_connect(struct loop_socket *socket, const struct sockaddr *peer, socklen_t length);
void loop_shutdown(struct loop_socket *socket); /* no more sends: FIN */
void loop_close(struct loop_socket *socket);

/* Run a callback of ours from loop_run_once(), soon and without a wait: for transports that have
 * something to tell before the kernel does. list_init(&deferred->link) first; harmless when it is
 * deferred already; list_remove(&deferred->link) takes it back. */
struct loop_deferred {
    struct list link;
    void (*run)(struct loop_deferred *deferred);
};
void loop_defer(struct loop *loop, struct loop_deferred *deferred);

/* Wait at most timeout_ms (-1: without end) for events, run their callbacks, return their number
 * or a negative EDGE_ERR_*. */
int loop_run_once(struct loop *loop, int timeout_ms);
/* CLOCK_MONOTONIC when loop_run_once() last woke. */
uint64_t loop_now_ns(const struct loop *loop);
/* From any thread: the loop's next or present wait ends. */
void loop_wake(struct loop *loop);

#endif
