/* A byte stream to a peer: plain TCP (plain.c) or TLS (tls.c). What codecs talk to.
 *
 * Same rules as net/loop.h: one receive and one send outstanding, callbacks never inside the call
 * that asked, closed() is the last one. received() gives plain text whatever the transport. */
#ifndef EDGE_NET_TRANSPORT_H
#define EDGE_NET_TRANSPORT_H

#include "net/loop.h"

struct transport;
struct tls_server; /* net/tls.h */

struct transport_handlers {
    void (*received)(struct transport *transport, uint8_t *data, int length);
    void (*sent)(struct transport *transport, int result);
    void (*connected)(struct transport *transport, int result); /* client side only */
    void (*closed)(struct transport *transport);
    /* TLS only, for counting, may be 0: 0: the handshake is done; < 0: it, or a record after it,
     * failed (told once). Nothing may be asked of the transport in here. */
    void (*secured)(struct transport *transport, int result);
};

struct transport_ops {
    void (*recv)(struct transport *transport);
    void (*recv_into)(struct transport *transport, uint8_t *buffer, size_t length);
    void (*send)(struct transport *transport, const uint8_t *buffer, size_t length);
    void (*shutdown)(struct transport *transport); /* close_notify where there is TLS, then FIN */
    void (*close)(struct transport *transport);
};

struct transport {
    const struct transport_ops *ops;
    const struct transport_handlers *on;
    struct loop_socket socket;
    struct tls_session *tls; /* 0 for plain */
};

void transport_accept_plain(struct transport *transport, struct loop *loop, int fd,
                            const struct transport_handlers *on);
/* The handshake runs by itself before the first received(); a failed one is received(-EPROTO). */
int transport_accept_tls(struct transport *transport, struct loop *loop, int fd,
                         const struct transport_handlers *on, struct tls_server *server);
void transport_connect_plain(struct transport *transport, struct loop *loop, int fd,
                             const struct sockaddr *peer, socklen_t length,
                             const struct transport_handlers *on);

static inline void transport_recv(struct transport *t)
{
    t->ops->recv(t);
}
static inline void transport_recv_into(struct transport *t, uint8_t *buffer, size_t length)
{
    t->ops->recv_into(t, buffer, length);
}
static inline void transport_send(struct transport *t, const uint8_t *buffer, size_t length)
{
    t->ops->send(t, buffer, length);
}
static inline void transport_shutdown(struct transport *t)
{
    t->ops->shutdown(t);
}
static inline void transport_close(struct transport *t)
{
    t->ops->close(t);
}

#endif
