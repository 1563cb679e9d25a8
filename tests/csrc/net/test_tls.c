/* The TLS transport over both loops, against OpenSSL's own client in a thread.
 *
 * links: net/tls_context.c net/plain.c net/loop.c net/loop_epoll.c net/loop_uring.c
 * marks: slow */
#define _GNU_SOURCE
#include "net/tls.c"

#include <arpa/inet.h>
#include <signal.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tap.h"

enum { DEADLINE_MS = 20000, BULK = 1 << 20 };

struct pem {
    char *chain, *key;
    size_t chain_bytes, key_bytes;
};

static struct pem pem_a, pem_b;
static struct tls_certificate *certificate_a, *certificate_b;
static struct tls_server *server;
static struct loop *loop;
static const char *kind_name;
static int owner_released;

static void make_pem(const char *name, struct pem *out)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x509 = X509_new();
    X509_NAME *subject = X509_get_subject_name(x509);
    BIO *chain = BIO_new(BIO_s_mem()), *secret = BIO_new(BIO_s_mem());
    char *at;

    X509_set_version(x509, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x509), 1);
    X509_gmtime_adj(X509_getm_notBefore(x509), -60);
    X509_gmtime_adj(X509_getm_notAfter(x509), 3600);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(x509, subject);
    X509_set_pubkey(x509, key);
    X509_sign(x509, key, EVP_sha256());
    PEM_write_bio_X509(chain, x509);
    PEM_write_bio_PrivateKey(secret, key, 0, 0, 0, 0, 0);
    out->chain_bytes = (size_t)BIO_get_mem_data(chain, &at);
    out->chain = memcpy(calloc(1, out->chain_bytes + 1), at, out->chain_bytes);
    out->key_bytes = (size_t)BIO_get_mem_data(secret, &at);
    out->key = memcpy(calloc(1, out->key_bytes + 1), at, out->key_bytes);
    BIO_free(chain);
    BIO_free(secret);
    X509_free(x509);
    EVP_PKEY_free(key);
}

static int load(const struct pem *chain, const struct pem *key, struct tls_certificate **out,
                struct edge_error *err)
{
    return tls_certificate_create((uint8_t *)chain->chain, chain->chain_bytes, (uint8_t *)key->key,
                                  key->key_bytes, out, err);
}

static struct tls_certificate *choose(void *owner, struct slice name)
{
    (void)owner;
    if (name.length == 0 || slice_equal(name, SLICE("a.example.com")))
        return certificate_a;
    return slice_equal(name, SLICE("b.example.com")) ? certificate_b : 0;
}

static void release_owner(void *owner)
{
    *(int *)owner += 1;
}

/* ---- The client --------------------------------------------------------------------------- */

enum ending { END_NOTIFY, END_TRUNCATE, END_GARBAGE };

struct client {
    int fd;
    const char *name; /* 0: no SNI */
    int version;      /* 0: any */
    const char *protocols;
    size_t protocols_length;
    size_t sends, expects;
    enum ending ending;
    /* Results. */
    bool shaken, same, answer_ended;
    char subject[64], protocol[16];
    size_t got;
    int alert;
};

static uint8_t byte_at(size_t at)
{
    return (uint8_t)(at * 13 % 253);
}

static void talk(struct client *client, SSL *ssl)
{
    static __thread uint8_t part[30000];
    const unsigned char *protocol;
    unsigned protocol_length;
    X509 *peer;

    if (SSL_connect(ssl) != 1) {
        client->alert = ERR_GET_REASON(ERR_peek_error());
        return;
    }
    client->shaken = true;
    peer = SSL_get1_peer_certificate(ssl);
    X509_NAME_get_text_by_NID(X509_get_subject_name(peer), NID_commonName, client->subject,
                              sizeof(client->subject));
    X509_free(peer);
    SSL_get0_alpn_selected(ssl, &protocol, &protocol_length);
    if (protocol_length)
        memcpy(client->protocol, protocol, protocol_length);
    for (size_t done = 0; done < client->sends;) {
        size_t n = client->sends - done < sizeof(part) ? client->sends - done : sizeof(part);
        int put;

        for (size_t i = 0; i < n; i++)
            part[i] = byte_at(done + i);
        put = SSL_write(ssl, part, (int)n);
        if (put <= 0)
            return;
        done += (size_t)put;
    }
    client->same = true;
    while (client->got < client->expects) {
        int n = SSL_read(ssl, part, sizeof(part));

        if (n <= 0)
            break;
        for (int i = 0; i < n; i++)
            client->same &= part[i] == byte_at(client->got + (size_t)i);
        client->got += (size_t)n;
    }
    if (client->expects) {
        int n = SSL_read(ssl, part, 1);

        client->answer_ended = n == 0 && SSL_get_error(ssl, n) == SSL_ERROR_ZERO_RETURN;
    }
    if (client->ending == END_NOTIFY)
        SSL_shutdown(ssl);
}

static void *run_client(void *argument)
{
    struct client *client = argument;
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL *ssl;

    if (client->ending == END_GARBAGE) {
        if (send(client->fd, "GET / HTTP/1.0\r\n\r\n", 18, 0) < 0)
            abort();
        while (recv(client->fd, client->protocol, 1, 0) > 0)
            continue;
    } else {
        if (client->version) {
            SSL_CTX_set_min_proto_version(context, client->version);
            SSL_CTX_set_max_proto_version(context, client->version);
        }
        if (client->protocols)
            SSL_CTX_set_alpn_protos(context, (const unsigned char *)client->protocols,
                                    (unsigned)client->protocols_length);
        ssl = SSL_new(context);
        if (client->name)
            SSL_set_tlsext_host_name(ssl, client->name);
        SSL_set_fd(ssl, client->fd);
        talk(client, ssl);
        SSL_free(ssl);
    }
    SSL_CTX_free(context);
    ERR_clear_error();
    close(client->fd);
    return 0;
}

/* ---- The server's owner ------------------------------------------------------------------- */

struct session {
    struct transport transport;
    size_t expects, got;
    uint8_t *answer;
    size_t answer_length;
    int ended; /* the last received(): 0 or -errno */
    int sent, sent_result, receives;
    bool end_came, closed, same, into, hold;
    uint8_t buffer[5000];
};

static unsigned inside, rule_broken;

static void ask(struct session *session)
{
    inside++;
    if (session->into)
        transport_recv_into(&session->transport, session->buffer, sizeof(session->buffer));
    else
        transport_recv(&session->transport);
    inside--;
}

static void on_received(struct transport *transport, uint8_t *data, int length)
{
    struct session *session = (struct session *)transport;

    rule_broken += inside;
    session->receives++;
    if (length <= 0) {
        session->end_came = true;
        session->ended = length;
        inside++;
        transport_close(transport);
        inside--;
        return;
    }
    for (int i = 0; i < length; i++)
        session->same &= data[i] == byte_at(session->got + (size_t)i);
    session->got += (size_t)length;
    if (session->hold)
        return;
    if (session->got == session->expects && session->answer_length) {
        inside++;
        transport_send(transport, session->answer, session->answer_length);
        inside--;
    }
    ask(session);
}

static void on_sent(struct transport *transport, int result)
{
    struct session *session = (struct session *)transport;

    rule_broken += inside;
    session->sent++;
    session->sent_result = result;
    inside++;
    transport_shutdown(transport);
    inside--;
}

static void on_closed(struct transport *transport)
{
    rule_broken += inside;
    ((struct session *)transport)->closed = true;
}

static const struct transport_handlers handlers = {
    .received = on_received, .sent = on_sent, .closed = on_closed};

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

#define RUN_UNTIL(condition)                                                                       \
    ({                                                                                             \
        uint64_t until = now_ms() + DEADLINE_MS;                                                   \
        while (!(condition) && now_ms() < until)                                                   \
            loop_run_once(loop, 20);                                                               \
        (condition);                                                                               \
    })

static int connected_pair(int *peer)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
    struct timeval limit = {.tv_sec = DEADLINE_MS / 1000};
    socklen_t length = sizeof(address);
    int door = socket(AF_INET, SOCK_STREAM, 0), fd;

    *peer = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(door, (struct sockaddr *)&address, length) < 0 || listen(door, 1) < 0 ||
        getsockname(door, (struct sockaddr *)&address, &length) < 0 ||
        connect(*peer, (struct sockaddr *)&address, length) < 0)
        abort();
    setsockopt(*peer, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(*peer, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    fd = accept4(door, 0, 0, SOCK_NONBLOCK);
    close(door);
    return fd;
}

/* One connection from its handshake to closed(). */
static void converse(struct client *client, struct session *session)
{
    pthread_t thread;
    int fd = connected_pair(&client->fd);

    session->same = true;
    pthread_create(&thread, 0, run_client, client);
    if (transport_accept_tls(&session->transport, loop, fd, &handlers, server) != EDGE_OK)
        abort();
    ask(session);
    RUN_UNTIL(session->closed || (session->hold && session->receives));
    if (session->hold) {
        for (int i = 0; i < 20; i++)
            loop_run_once(loop, 5);
        transport_close(&session->transport);
        RUN_UNTIL(session->closed);
    }
    pthread_join(thread, 0);
}

static void case_names(void)
{
    struct {
        const char *name, *subject;
        int version;
    } cases[] = {
        {"a.example.com", "cert-a", TLS1_3_VERSION},
        {"b.example.com", "cert-b", TLS1_3_VERSION},
        {"B.Example.COM", "cert-b", TLS1_2_VERSION},
        {0, "cert-a", TLS1_2_VERSION},
        {0, "cert-a", TLS1_3_VERSION},
        {"c.example.com", 0, TLS1_3_VERSION},
        {"c.example.com", 0, TLS1_2_VERSION},
        {"a.example.com", 0, TLS1_1_VERSION},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct client client = {.name = cases[i].name, .version = cases[i].version, .sends = 5};
        struct session session = {.expects = 5};
        const char *name = cases[i].name ? cases[i].name : "no name";

        converse(&client, &session);
        if (cases[i].subject) {
            IS_TEXT(client.subject, strlen(client.subject), cases[i].subject, "%s: %s, %s",
                    kind_name, name, cases[i].subject);
            OK(session.got == 5 && session.same && session.ended == 0, "%s: ends with 0",
               kind_name);
        } else {
            OK(!client.shaken && session.ended == -EPROTO, "%s: %s is refused", kind_name, name);
            if (cases[i].version >= TLS1_2_VERSION)
                IS(client.alert, SSL_R_TLSV1_UNRECOGNIZED_NAME, "%s: by its alert", kind_name);
        }
    }
}

static void case_protocols(void)
{
    struct client both = {.protocols = "\x02h2\x08http/1.1", .protocols_length = 12, .sends = 1};
    struct client h2 = {.protocols = "\x02h2", .protocols_length = 3};
    struct session first = {.expects = 1}, second = {0};

    converse(&both, &first);
    IS_TEXT(both.protocol, strlen(both.protocol), "http/1.1", "%s: http/1.1 is chosen", kind_name);
    converse(&h2, &second);
    OK(!h2.shaken && second.ended == -EPROTO, "%s: h2 alone is refused", kind_name);
}

static void case_bulk(int version, bool into)
{
    struct client client = {
        .name = "b.example.com", .version = version, .sends = BULK, .expects = BULK};
    struct session session = {.expects = BULK, .answer_length = BULK, .into = into};
    const char *name = version == TLS1_3_VERSION ? "1.3" : "1.2";

    session.answer = malloc(BULK);
    for (size_t i = 0; i < BULK; i++)
        session.answer[i] = byte_at(i);
    converse(&client, &session);
    OK(session.got == BULK && session.same, "%s: TLS %s: 1 MiB came", kind_name, name);
    OK(session.sent == 1 && session.sent_result == 0, "%s: sent() once", kind_name);
    OK(client.got == BULK && client.same, "%s: TLS %s: 1 MiB went", kind_name, name);
    OK(client.answer_ended, "%s: shutdown is close_notify", kind_name);
    IS(session.ended, 0, "%s: and the client's is 0", kind_name);
    free(session.answer);
}

static void case_bad_ends(void)
{
    struct client cut = {.sends = 100, .ending = END_TRUNCATE}, plain = {.ending = END_GARBAGE};
    struct client flood = {.sends = 64 << 20};
    struct session cut_session = {.expects = 100}, plain_session = {0}, held = {.hold = true};

    converse(&cut, &cut_session);
    OK(cut_session.got == 100 && cut_session.ended == -ECONNRESET, "%s: cut off is an error",
       kind_name);
    converse(&plain, &plain_session);
    IS(plain_session.ended, -EPROTO, "%s: plain text is refused", kind_name);
    converse(&flood, &held);
    OK(held.receives == 1 && held.got <= 16384, "%s: one receive asked, one record told",
       kind_name);
}

static void case_secrets(void)
{
    struct tls_certificate *out;
    struct edge_error err;
    struct pem nothing = {"", "", 0, 0}, broken = pem_a, locked = pem_a;
    char *text = strdup(pem_a.chain);

    IS(load(&pem_a, &pem_b, &out, &err), EDGE_ERR_SECRET, "another certificate's key");
    OK(strstr(err.reason, "does not belong") && !strcmp(err.field, "tls.key"), "said so: %s",
       err.reason);
    IS(load(&nothing, &pem_a, &out, &err), EDGE_ERR_SECRET, "no certificate: %s", err.reason);
    IS(load(&pem_a, &nothing, &out, &err), EDGE_ERR_SECRET, "no key: %s", err.reason);
    memset(strchr(text, '\n') + 20, '!', 8);
    broken.chain = text;
    IS(load(&broken, &pem_a, &out, &err), EDGE_ERR_SECRET, "broken PEM: %s", err.reason);
    locked.key =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    locked.key_bytes = strlen(locked.key);
    IS(load(&pem_a, &locked, &out, &err), EDGE_ERR_SECRET, "a locked key does not ask");
    OK(ERR_peek_error() == 0, "no error is left in OpenSSL's queue");
    free(text);
}

static void run_all(enum edge_loop_kind kind, const char *name)
{
    struct loop_options options = {kind, 8, 16384};
    struct edge_error err;

    kind_name = name;
    if (!OK(!loop_create(&options, &loop, &err) && !loop_enable(loop, &err), "%s: made", name))
        return;
    case_names();
    case_protocols();
    case_bulk(TLS1_3_VERSION, false);
    case_bulk(TLS1_2_VERSION, true);
    case_bad_ends();
    IS(rule_broken, 0, "%s: no callback inside the call that asked", name);
    loop_destroy(loop);
}

int main(void)
{
    struct edge_error err;

    signal(SIGPIPE, SIG_IGN); /* of the clients that are cut off */
    make_pem("cert-a", &pem_a);
    make_pem("cert-b", &pem_b);
    case_secrets();
    OK(load(&pem_a, &pem_a, &certificate_a, &err) == EDGE_OK, "certificate a");
    OK(load(&pem_b, &pem_b, &certificate_b, &err) == EDGE_OK, "certificate b");
    server = tls_server_create(choose, &owner_released, release_owner);
    run_all(EDGE_LOOP_EPOLL, "epoll");
    run_all(EDGE_LOOP_URING, "uring");
    tls_server_release(server);
    IS(owner_released, 1, "the last release lets the owner go");
    tls_certificate_release(certificate_a);
    tls_certificate_release(certificate_b);
    free(pem_a.chain);
    free(pem_a.key);
    free(pem_b.chain);
    free(pem_b.key);
    return tap_done();
}
