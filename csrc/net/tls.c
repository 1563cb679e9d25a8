/* TLS 1.2 and 1.3 for accepted connections: OpenSSL moves no byte, the loop does.
 *
 * Ciphertext is asked for only while the owner waits for plain text (or a handshake runs), one
 * shared buffer at a time, so a session holds at most that and one record on the way in and
 * SEND_CHUNK on the way out, whatever the peer sends. A stream without close_notify ends in
 * -ECONNRESET, never in 0. Callbacks come from the loop only: where plain text is there before
 * anybody asked for it, loop_defer() makes it so. Called through net/transport.h. */
#include "net/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdlib.h>

#include "net/tls_context.h"
#include "net/transport.h"

/* Plain text that is turned into records at once: four full records. */
enum { SEND_CHUNK = 65536 };
/* One record's plain text (RFC 8446 §5.1): what the owner gets at most in one received(). */
enum { PLAIN_BYTES = 16384 };

enum session_state {
    WANTS_RECV = 1,
    WANTS_SEND = 2,
    RECEIVING = 4, /* the socket's receive is outstanding */
    SENDING = 8,   /* the socket's send is outstanding: `sending` is the kernel's */
    WANTS_SHUT = 16,
    NOTIFIED = 32,    /* close_notify was written */
    SHUT = 64,        /* FIN was asked for */
    PEER_ENDED = 128, /* close_notify came */
    CLOSED = 256,
    RUNNING = 512, /* run_recv() goes on by itself when the owner asks again */
};

struct bytes {
    uint8_t *at;
    size_t length, capacity;
};

/* Everything but `ssl` is empty while a connection is idle. */
struct tls_session {
    struct transport *transport;
    struct tls_server *server;
    SSL *ssl;
    uint32_t state;
    int error; /* -errno that the next received() and sent() tell; 0: none */
    uint8_t *recv_at;
    size_t recv_length;
    const uint8_t *send_at;
    size_t send_length;
    const uint8_t *cipher_at; /* what OpenSSL has not taken yet: in the loop's buffer, or in kept */
    size_t cipher_length;
    uint8_t *kept;
    struct bytes waiting, sending; /* ciphertext on its way out */
    struct loop_deferred deferred;
};

/* ---- Between OpenSSL and the loop --------------------------------------------------------- */

static int bio_read(BIO *bio, char *out, int length)
{
    struct tls_session *session = BIO_get_data(bio);
    size_t take = session->cipher_length < (size_t)length ? session->cipher_length : (size_t)length;

    BIO_clear_retry_flags(bio);
    if (take == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    memcpy(out, session->cipher_at, take);
    session->cipher_at += take;
    session->cipher_length -= take;
    return (int)take;
}

static int bio_write(BIO *bio, const char *data, int length)
{
    struct tls_session *session = BIO_get_data(bio);
    struct bytes *to = &session->waiting;

    BIO_clear_retry_flags(bio);
    if (to->length + (size_t)length > to->capacity) {
        size_t capacity = to->length + (size_t)length;
        uint8_t *at;

        /* A second record means that a whole chunk is coming. */
        if (to->length && capacity < SEND_CHUNK + 1024)
            capacity = SEND_CHUNK + 1024;
        at = realloc(to->at, capacity);
        if (!at)
            return -1;
        to->at = at;
        to->capacity = capacity;
    }
    memcpy(to->at + to->length, data, (size_t)length);
    to->length += (size_t)length;
    return length;
}

static long bio_control(BIO *bio, int command, long number, void *argument)
{
    (void)bio;
    (void)number;
    (void)argument;
    return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *bio_method;
static pthread_once_t bio_once = PTHREAD_ONCE_INIT;

static void make_bio_method(void)
{
    bio_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "tls session");
    if (!bio_method)
        return;
    BIO_meth_set_read(bio_method, bio_read);
    BIO_meth_set_write(bio_method, bio_write);
    BIO_meth_set_ctrl(bio_method, bio_control);
}

/* ---- Sessions ---------------------------------------------------------------------------- */

static struct tls_session *of(struct loop_socket *socket)
{
    return ((struct transport *)((char *)socket - offsetof(struct transport, socket)))->tls;
}

/* Hand encrypted bytes to the socket. */
static void push(struct tls_session *session)
{
    if (session->state & (SENDING | CLOSED) || session->waiting.length == 0)
        return;
    session->sending = session->waiting;
    session->waiting = (struct bytes){0};
    session->state |= SENDING;
    loop_send(&session->transport->socket, session->sending.at, session->sending.length);
}

static void pull(struct tls_session *session)
{
    if (session->state & (RECEIVING | CLOSED))
        return;
    free(session->kept); /* used up, or more would not be wanted */
    session->kept = 0;
    session->state |= RECEIVING;
    loop_recv(&session->transport->socket);
}

static void tell(struct tls_session *session, int result)
{
    if (session->transport->on->secured)
        session->transport->on->secured(session->transport, result);
}

/* What a failed OpenSSL call means: true when it only needs more ciphertext. */
static bool wants_more(struct tls_session *session, int rc)
{
    int reason = SSL_get_error(session->ssl, rc);

    ERR_clear_error();
    if (reason == SSL_ERROR_WANT_READ || reason == SSL_ERROR_WANT_WRITE)
        return true;
    if (reason == SSL_ERROR_ZERO_RETURN)
        session->state |= PEER_ENDED;
    else if (!session->error) {
        session->error = SSL_is_init_finished(session->ssl) ? -ECONNRESET : -EPROTO;
        tell(session, session->error);
    }
    return false;
}

static void run_handshake(struct tls_session *session)
{
    int rc;

    if (session->error || session->state & CLOSED || SSL_is_init_finished(session->ssl))
        return;
    ERR_clear_error();
    rc = SSL_do_handshake(session->ssl);
    if (rc == 1)
        tell(session, 0);
    else if (wants_more(session, rc))
        pull(session);
    push(session); /* our flight, or the alert */
}

static void deliver(struct tls_session *session, uint8_t *data, int length)
{
    session->state &= ~(uint32_t)WANTS_RECV;
    session->transport->on->received(session->transport, data, length);
}

/* One record's plain text for the owner, or a receive for what is missing of it. */
static void run_record(struct tls_session *session)
{
    uint8_t plain[PLAIN_BYTES];
    uint8_t *at = session->recv_at ? session->recv_at : plain;
    size_t length = session->recv_at ? session->recv_length : sizeof(plain);
    int got;

    if (session->error || session->state & PEER_ENDED) {
        deliver(session, at, session->error);
        return;
    }
    ERR_clear_error();
    got = SSL_read(session->ssl, at, (int)(length > INT32_MAX ? INT32_MAX : length));
    if (got > 0)
        deliver(session, at, got);
    else if (wants_more(session, got))
        pull(session);
    else
        deliver(session, at, session->error);
    push(session); /* the answer to a KeyUpdate, or an alert */
}

static void run_recv(struct tls_session *session)
{
    if (session->state & RUNNING)
        return;
    session->state |= RUNNING;
    while (session->state & WANTS_RECV && !(session->state & (CLOSED | RECEIVING)) &&
           (session->error || SSL_is_init_finished(session->ssl)))
        run_record(session);
    session->state &= ~(uint32_t)RUNNING;
}

static void encrypt_chunk(struct tls_session *session)
{
    size_t left = session->send_length > SEND_CHUNK ? SEND_CHUNK : session->send_length;

    while (left) {
        int put;

        ERR_clear_error();
        put = SSL_write(session->ssl, session->send_at, (int)left);
        if (put <= 0) {
            session->error = -EPIPE;
            ERR_clear_error();
            return;
        }
        session->send_at += put;
        session->send_length -= (size_t)put;
        left -= (size_t)put;
    }
}

/* The next chunk of the owner's send when the last one has left, then what follows the send. */
static void run_send(struct tls_session *session)
{
    push(session);
    if (session->state & (SENDING | CLOSED) ||
        (!session->error && !SSL_is_init_finished(session->ssl)))
        return;
    if (session->state & WANTS_SEND) {
        if (!session->error)
            encrypt_chunk(session);
        push(session);
        if (session->state & SENDING)
            return;
        session->state &= ~(uint32_t)WANTS_SEND;
        session->transport->on->sent(session->transport, session->error);
        if (session->state & (CLOSED | SENDING | WANTS_SEND))
            return;
    }
    if (!(session->state & WANTS_SHUT))
        return;
    if (!(session->state & NOTIFIED)) {
        session->state |= NOTIFIED;
        ERR_clear_error();
        if (!session->error)
            SSL_shutdown(session->ssl);
        ERR_clear_error();
        push(session);
    }
    if (!(session->state & (SENDING | SHUT))) {
        session->state |= SHUT;
        loop_shutdown(&session->transport->socket);
    }
}

static void run_deferred(struct loop_deferred *deferred)
{
    struct tls_session *session =
        (struct tls_session *)((char *)deferred - offsetof(struct tls_session, deferred));

    run_recv(session);
    run_send(session);
}

static void defer(struct tls_session *session)
{
    loop_defer(session->transport->socket.loop, &session->deferred);
}

static void received(struct loop_socket *socket, uint8_t *data, int length)
{
    struct tls_session *session = of(socket);

    session->state &= ~(uint32_t)RECEIVING;
    if (length > 0) {
        /* Asked for only when OpenSSL had taken everything, so nothing is kept here. */
        session->cipher_at = data;
        session->cipher_length = (size_t)length;
    } else if (!session->error && !(session->state & PEER_ENDED)) {
        session->error = !SSL_is_init_finished(session->ssl) ? -EPROTO
                         : length == 0                       ? -ECONNRESET
                                                             : length;
        if (session->error == -EPROTO)
            tell(session, session->error);
    }
    run_handshake(session);
    run_recv(session);
    run_send(session);
    /* The loop's buffer goes back with this call; leave what the owner does not want yet. */
    if (session->cipher_length && !(session->state & CLOSED) && session->cipher_at >= data &&
        length > 0 && session->cipher_at < data + length) {
        session->kept = malloc(session->cipher_length);
        if (!session->kept)
            session->error = -ENOMEM;
        else
            memcpy(session->kept, session->cipher_at, session->cipher_length);
        session->cipher_at = session->kept;
        if (!session->kept)
            session->cipher_length = 0;
    }
}

static void sent(struct loop_socket *socket, int result)
{
    struct tls_session *session = of(socket);

    session->state &= ~(uint32_t)SENDING;
    free(session->sending.at);
    session->sending = (struct bytes){0};
    if (result < 0 && !session->error)
        session->error = result;
    run_send(session);
}

static void closed(struct loop_socket *socket)
{
    struct tls_session *session = of(socket);
    struct transport *transport = session->transport;

    list_remove(&session->deferred.link);
    SSL_free(session->ssl);
    tls_server_release(session->server);
    free(session->kept);
    free(session->waiting.at);
    free(session->sending.at);
    free(session);
    transport->tls = 0;
    transport->on->closed(transport);
}

static const struct loop_handlers socket_handlers = {
    .received = received,
    .sent = sent,
    .closed = closed,
};

/* ---- The transport ------------------------------------------------------------------------ */

static void tls_recv_into(struct transport *transport, uint8_t *buffer, size_t length)
{
    struct tls_session *session = transport->tls;

    session->state |= WANTS_RECV;
    session->recv_at = buffer;
    session->recv_length = length;
    if (session->state & RUNNING)
        return;
    if (session->error || session->state & PEER_ENDED || session->cipher_length ||
        SSL_has_pending(session->ssl))
        defer(session);
    else
        pull(session);
}

static void tls_recv(struct transport *transport)
{
    tls_recv_into(transport, 0, 0);
}

static void tls_send(struct transport *transport, const uint8_t *buffer, size_t length)
{
    struct tls_session *session = transport->tls;

    session->state |= WANTS_SEND;
    session->send_at = buffer;
    session->send_length = length;
    if (session->error || length == 0) {
        defer(session);
        return;
    }
    if (session->state & SENDING || !SSL_is_init_finished(session->ssl))
        return;
    /* At once, so that it leaves with this iteration of the loop. */
    encrypt_chunk(session);
    push(session);
    if (!(session->state & SENDING))
        defer(session);
}

static void tls_shutdown(struct transport *transport)
{
    transport->tls->state |= WANTS_SHUT;
    defer(transport->tls);
}

static void tls_close(struct transport *transport)
{
    transport->tls->state |= CLOSED;
    list_remove(&transport->tls->deferred.link);
    loop_close(&transport->socket);
}

static const struct transport_ops tls_ops = {
    .recv = tls_recv,
    .recv_into = tls_recv_into,
    .send = tls_send,
    .shutdown = tls_shutdown,
    .close = tls_close,
};

int transport_accept_tls(struct transport *transport, struct loop *loop, int fd,
                         const struct transport_handlers *on, struct tls_server *server)
{
    struct tls_session *session = calloc(1, sizeof(*session));
    BIO *bio = 0;

    pthread_once(&bio_once, make_bio_method);
    if (!session || !bio_method)
        goto fail;
    session->ssl = tls_server_session(server);
    bio = BIO_new(bio_method);
    if (!session->ssl || !bio)
        goto fail;
    BIO_set_data(bio, session);
    BIO_set_init(bio, 1);
    SSL_set_bio(session->ssl, bio, bio); /* takes the one reference for both directions */
    SSL_set_accept_state(session->ssl);
    tls_server_hold(server);
    session->server = server;
    session->transport = transport;
    list_init(&session->deferred.link);
    session->deferred.run = run_deferred;
    transport->ops = &tls_ops;
    transport->on = on;
    transport->tls = session;
    loop_socket_init(loop, &transport->socket, fd, &socket_handlers);
    pull(session);
    return EDGE_OK;
fail:
    BIO_free(bio);
    if (session)
        SSL_free(session->ssl);
    free(session);
    ERR_clear_error();
    return EDGE_ERR_NOMEM;
}
