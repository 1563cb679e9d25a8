/* TLS server transport over OpenSSL with memory BIOs: sans-IO, the loop moves the bytes.
 *
 * A tls_server belongs to one prepared image: it is made on the preparation (control) thread from
 * the secrets, never on a worker, and is reference-counted because sessions may outlive a
 * publish. */
#ifndef EDGE_NET_TLS_H
#define EDGE_NET_TLS_H

#include "base/slice.h"
#include "include/edge.h"

struct tls_server;
struct tls_certificate; /* one SSL_CTX; shared by several servers, cached by digest */

int tls_certificate_create(const uint8_t *chain_pem, size_t chain_bytes, const uint8_t *key_pem,
                           size_t key_bytes, struct tls_certificate **out, struct edge_error *err);
void tls_certificate_hold(struct tls_certificate *certificate);
void tls_certificate_release(struct tls_certificate *certificate);

/* choose: the certificate for a server name (in lower case; length 0: none sent), borrowed; 0:
 * unrecognized_name alert. Called on workers during the handshake. */
struct tls_server *tls_server_create(struct tls_certificate *(*choose)(void *owner,
                                                                       struct slice name),
                                     void *owner, void (*release_owner)(void *owner));
void tls_server_hold(struct tls_server *server);
void tls_server_release(struct tls_server *server);

#endif
