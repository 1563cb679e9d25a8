/* Request -> route: the one matcher, for workers, `edge explain` and the tests.
 *
 * Called by proxy/exchange.c at the end of a request head and by worker at a TLS ClientHello.
 * The image was checked; nothing here allocates or fails. */
#ifndef EDGE_MATCH_MATCHER_H
#define EDGE_MATCH_MATCHER_H

#include "snapshot/image.h"

/* Index of the listener with that slot, -1: the image does not have it. */
int32_t match_listener(const struct image *image, uint32_t slot);

/* Index in ROUTE, -1: no route (answer 404). listener: index, not slot. host: the Host field's or
 * the absolute target's authority as written (port, case, trailing dot are dealt with here; empty
 * for HTTP/1.0 without one). path: the target's path, without query.
 *
 * The most specific host decides alone. Within it the first route by precedence that matches. If
 * none does, a "/" prefix route for any host (the default) takes the request. */
int32_t match_route(const struct image *image, uint32_t listener, struct slice host,
                    struct slice path);

/* Index in CERTIFICATE for the server name of a ClientHello (empty: none sent), -1: reject. */
int32_t match_certificate(const struct image *image, uint32_t listener, struct slice name);

#endif
