/* What TLS needs before any connection: certificates parsed from PEM, servers that choose among
 * them by name.
 *
 * All of it is made on the preparation (control) thread; workers only hold, release and choose.
 * Never opens a file: OpenSSL's configuration is switched off. */
#include "net/tls_context.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "net/tls.h"

struct tls_certificate {
    SSL_CTX *context;
    atomic_uint references;
};

struct tls_server {
    struct tls_certificate *(*choose)(void *owner, struct slice name);
    void (*release_owner)(void *owner);
    void *owner;
    SSL_CTX *context; /* of sessions whose name is not known yet; has no certificate */
    atomic_uint references;
};

/* ---- Certificates ------------------------------------------------------------------------ */

static int refuse_secret(struct edge_error *err, const char *field, const char *what)
{
    unsigned long code = ERR_peek_last_error();
    const char *why = code ? ERR_reason_error_string(code) : 0;

    memset(err, 0, sizeof(*err));
    err->code = EDGE_ERR_SECRET;
    snprintf(err->field, sizeof(err->field), "%s", field);
    snprintf(err->reason, sizeof(err->reason), "%s%s%s", what, why ? ": " : "", why ? why : "");
    ERR_clear_error();
    return EDGE_ERR_SECRET;
}

/* A key with a pass phrase must fail, not ask on a terminal. */
static int no_pass_phrase(char *at, int size, int writing, void *owner)
{
    (void)at;
    (void)size;
    (void)writing;
    (void)owner;
    return 0;
}

static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_length,
                           const unsigned char *in, unsigned in_length, void *owner)
{
    static const unsigned char http1[] = "\x08http/1.1";

    (void)ssl;
    (void)owner;
    if (SSL_select_next_proto((unsigned char **)out, out_length, http1, sizeof(http1) - 1, in,
                              in_length) == OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_OK;
    /* RFC 7301 §3.2: no common protocol is fatal. */
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static SSL_CTX *make_context(void)
{
    SSL_CTX *context;

    /* The first call decides: no file is ever opened, in the sandbox it could not be. */
    OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, 0);
    context = SSL_CTX_new(TLS_server_method());
    if (!context)
        return 0;
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                     SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_NO_TICKET |
                                     SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                  SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(context, 0);
    SSL_CTX_set_cipher_list(context, "ECDHE+AESGCM:ECDHE+CHACHA20");
    SSL_CTX_set_alpn_select_cb(context, choose_protocol, 0);
    return context;
}

static int load_chain(SSL_CTX *context, const uint8_t *pem, size_t bytes, struct edge_error *err)
{
    BIO *bio = BIO_new_mem_buf(pem, (int)bytes);
    X509 *leaf = bio ? PEM_read_bio_X509(bio, 0, no_pass_phrase, 0) : 0;
    X509 *issuer;
    int rc = EDGE_OK;

    if (!leaf)
        rc = refuse_secret(err, "tls.crt", "no certificate in PEM form");
    else if (SSL_CTX_use_certificate(context, leaf) != 1)
        rc = refuse_secret(err, "tls.crt", "the certificate cannot be used");
    while (rc == EDGE_OK && (issuer = PEM_read_bio_X509(bio, 0, no_pass_phrase, 0)))
        if (SSL_CTX_add0_chain_cert(context, issuer) != 1) {
            X509_free(issuer);
            rc = refuse_secret(err, "tls.crt", "a certificate of the chain cannot be used");
        }
    /* NO_START_LINE is the end of the file, anything else a broken block. */
    if (rc == EDGE_OK && ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
        rc = refuse_secret(err, "tls.crt", "broken PEM after the first certificate");
    ERR_clear_error();
    X509_free(leaf);
    BIO_free(bio);
    return rc;
}

static int load_key(SSL_CTX *context, const uint8_t *pem, size_t bytes, struct edge_error *err)
{
    BIO *bio = BIO_new_mem_buf(pem, (int)bytes);
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, 0, no_pass_phrase, 0) : 0;
    int rc = EDGE_OK;

    if (!key)
        rc = refuse_secret(err, "tls.key", "no private key in PEM form without a pass phrase");
    else if (X509_check_private_key(SSL_CTX_get0_certificate(context), key) != 1)
        rc = refuse_secret(err, "tls.key", "the key does not belong to the certificate");
    else if (SSL_CTX_use_PrivateKey(context, key) != 1)
        rc = refuse_secret(err, "tls.key", "the key cannot be used");
    EVP_PKEY_free(key);
    BIO_free(bio);
    return rc;
}

int tls_certificate_create(const uint8_t *chain_pem, size_t chain_bytes, const uint8_t *key_pem,
                           size_t key_bytes, struct tls_certificate **out, struct edge_error *err)
{
    struct tls_certificate *certificate = calloc(1, sizeof(*certificate));
    SSL_CTX *context = make_context();
    int rc = EDGE_OK;

    ERR_clear_error();
    if (!certificate || !context) {
        rc = refuse_secret(err, "", "out of memory");
        rc = err->code = EDGE_ERR_NOMEM;
    } else if (chain_bytes > INT32_MAX || key_bytes > INT32_MAX) {
        rc = refuse_secret(err, "", "too large");
    } else {
        rc = load_chain(context, chain_pem, chain_bytes, err);
        if (rc == EDGE_OK)
            rc = load_key(context, key_pem, key_bytes, err);
    }
    if (rc != EDGE_OK) {
        SSL_CTX_free(context);
        free(certificate);
        return rc;
    }
    certificate->context = context;
    atomic_init(&certificate->references, 1);
    *out = certificate;
    return EDGE_OK;
}

void tls_certificate_hold(struct tls_certificate *certificate)
{
    atomic_fetch_add_explicit(&certificate->references, 1, memory_order_relaxed);
}

void tls_certificate_release(struct tls_certificate *certificate)
{
    if (!certificate ||
        atomic_fetch_sub_explicit(&certificate->references, 1, memory_order_acq_rel) != 1)
        return;
    SSL_CTX_free(certificate->context);
    free(certificate);
}

/* ---- Servers ----------------------------------------------------------------------------- */

static int choose_certificate(SSL *ssl, int *alert, void *owner)
{
    struct tls_server *server = owner;
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    char lower[TLSEXT_MAXLEN_host_name + 1];
    size_t length = 0;
    struct tls_certificate *chosen;

    for (; name && name[length] && length < sizeof(lower); length++)
        lower[length] = ascii_lower(name[length]);
    chosen = server->choose(server->owner, (struct slice){lower, length});
    if (!chosen) {
        *alert = SSL_AD_UNRECOGNIZED_NAME;
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    return SSL_set_SSL_CTX(ssl, chosen->context) ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

struct tls_server *tls_server_create(struct tls_certificate *(*choose)(void *owner,
                                                                       struct slice name),
                                     void *owner, void (*release_owner)(void *owner))
{
    struct tls_server *server = calloc(1, sizeof(*server));

    if (!server)
        return 0;
    server->context = make_context();
    if (!server->context) {
        free(server);
        return 0;
    }
    server->choose = choose;
    server->owner = owner;
    server->release_owner = release_owner;
    atomic_init(&server->references, 1);
    SSL_CTX_set_tlsext_servername_callback(server->context, choose_certificate);
    SSL_CTX_set_tlsext_servername_arg(server->context, server);
    return server;
}

void tls_server_hold(struct tls_server *server)
{
    atomic_fetch_add_explicit(&server->references, 1, memory_order_relaxed);
}

void tls_server_release(struct tls_server *server)
{
    if (!server || atomic_fetch_sub_explicit(&server->references, 1, memory_order_acq_rel) != 1)
        return;
    if (server->release_owner)
        server->release_owner(server->owner);
    SSL_CTX_free(server->context);
    free(server);
}

struct ssl_st *tls_server_session(struct tls_server *server)
{
    return SSL_new(server->context);
}
