/* What the two loops share: the head of struct loop, the table of operations, the accept pause.
 *
 * Included by loop.c, loop_uring.c and loop_epoll.c only; everybody else uses net/loop.h. */
#ifndef EDGE_NET_LOOP_OPS_H
#define EDGE_NET_LOOP_OPS_H

#include "net/loop.h"

/* A shared buffer is its reader's only during received(): sanitized builds see who goes on. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define LOOP_POISON(at, bytes) __asan_poison_memory_region((at), (bytes))
#define LOOP_UNPOISON(at, bytes) __asan_unpoison_memory_region((at), (bytes))
#else
#define LOOP_POISON(at, bytes) ((void)(at), (void)(bytes))
#define LOOP_UNPOISON(at, bytes) ((void)(at), (void)(bytes))
#endif

enum loop_listener_state {
    LISTENER_WANTED = 1,  /* between loop_listen() and loop_unlisten() */
    LISTENER_ARMED = 2,   /* the kernel may hand over connections */
    LISTENER_PAUSED = 4,  /* out of descriptors or memory; armed again at loop.resume_ns */
    LISTENER_LEAVING = 8, /* cancelled, and the last completion has not come */
};

struct loop_ops {
    int (*enable)(struct loop *loop, struct edge_error *err);
    void (*destroy)(struct loop *loop);
    void (*arm)(struct loop_listener *listener);
    /* Calls loop_listener_left() when nothing can come any more, at once or later. */
    void (*disarm)(struct loop_listener *listener);
    void (*recv)(struct loop_socket *socket);
    void (*send)(struct loop_socket *socket);
    void (*connect)(struct loop_socket *socket);
    void (*shutdown)(struct loop_socket *socket);
    void (*close)(struct loop_socket *socket);
    int (*run_once)(struct loop *loop, int timeout_ms);
};

/* First member of each implementation's struct. */
struct loop {
    const struct loop_ops *ops;
    struct loop_listener *listeners;
    struct list deferred;
    uint64_t now_ns;
    uint64_t resume_ns; /* when paused listeners are armed again; 0: none is paused */
    enum edge_loop_kind kind;
    int wake_fd;
};

/* recv_at 0: receive into the shared pool. */
enum loop_pending {
    PENDING_RECV = 1,
    PENDING_SEND = 2,
    PENDING_CONNECT = 4,
};

int loop_epoll_create(const struct loop_options *options, struct loop **out,
                      struct edge_error *err);
int loop_uring_create(const struct loop_options *options, struct loop **out,
                      struct edge_error *err);

/* Fill err for a failed system call; returns EDGE_ERR_SYSTEM. */
int loop_fail(struct edge_error *err, int sys_errno, const char *reason);
void loop_read_clock(struct loop *loop);
/* timeout_ms, cut to the end of an accept pause. */
int loop_wait_ms(const struct loop *loop, int timeout_ms);
void loop_resume_accepts(struct loop *loop);
/* True for the errors that another accept would meet at once again; the listener is paused. */
bool loop_accept_failed(struct loop_listener *listener, int sys_errno);
void loop_listener_left(struct loop_listener *listener);

#endif
