/* The plain TCP transport: net/transport.h without anything between it and the loop.
 *
 * Made by worker/ for accepted connections and by upstream/ for endpoints. Holds no buffer. */
#include "net/transport.h"

static struct transport *of(struct loop_socket *socket)
{
    return (struct transport *)((char *)socket - offsetof(struct transport, socket));
}

static void received(struct loop_socket *socket, uint8_t *data, int length)
{
    struct transport *transport = of(socket);

    transport->on->received(transport, data, length);
}

static void sent(struct loop_socket *socket, int result)
{
    struct transport *transport = of(socket);

    transport->on->sent(transport, result);
}

static void connected(struct loop_socket *socket, int result)
{
    struct transport *transport = of(socket);

    transport->on->connected(transport, result);
}

static void closed(struct loop_socket *socket)
{
    struct transport *transport = of(socket);

    transport->on->closed(transport);
}

static const struct loop_handlers socket_handlers = {
    .received = received,
    .sent = sent,
    .connected = connected,
    .closed = closed,
};

static void plain_recv(struct transport *transport)
{
    loop_recv(&transport->socket);
}

static void plain_recv_into(struct transport *transport, uint8_t *buffer, size_t length)
{
    loop_recv_into(&transport->socket, buffer, length);
}

static void plain_send(struct transport *transport, const uint8_t *buffer, size_t length)
{
    loop_send(&transport->socket, buffer, length);
}

static void plain_shutdown(struct transport *transport)
{
    loop_shutdown(&transport->socket);
}

static void plain_close(struct transport *transport)
{
    loop_close(&transport->socket);
}

static const struct transport_ops plain_ops = {
    .recv = plain_recv,
    .recv_into = plain_recv_into,
    .send = plain_send,
    .shutdown = plain_shutdown,
    .close = plain_close,
};

void transport_accept_plain(struct transport *transport, struct loop *loop, int fd,
                            const struct transport_handlers *on)
{
    transport->ops = &plain_ops;
    transport->on = on;
    transport->tls = 0;
    loop_socket_init(loop, &transport->socket, fd, &socket_handlers);
}

void transport_connect_plain(struct transport *transport, struct loop *loop, int fd,
                             const struct sockaddr *peer, socklen_t length,
                             const struct transport_handlers *on)
{
    transport_accept_plain(transport, loop, fd, on);
    loop_connect(&transport->socket, peer, length);
}
