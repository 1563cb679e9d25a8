/* Between tls_context.c and tls.c: a new OpenSSL session of a server. Nobody else includes it. */
#ifndef EDGE_NET_TLS_CONTEXT_H
#define EDGE_NET_TLS_CONTEXT_H

struct ssl_st;
struct tls_server;

/* 0: out of memory. The caller's, to be freed by SSL_free(). */
struct ssl_st *tls_server_session(struct tls_server *server);

#endif
