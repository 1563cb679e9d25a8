/* Request -> route: the one matcher, for workers, `edge explain` and the tests.
 *
 * Called by proxy/exchange.c at the end of a request head and by worker at a TLS ClientHello.
 * The image was checked; nothing here allocates or fails. */
#ifndef EDGE_MATCH_MATCHER_H
#define EDGE_MATCH_MATCHER_H

#include "http/h1_parse.h"
#include "match/host.h"
#include "snapshot/image.h"

/* What of a request decides. host: the Host field's or the absolute target's authority as written
 * (port, case, trailing dot are dealt with here; empty for HTTP/1.0 without one). path: the
 * target's path, without query. */
struct match_request {
    struct slice host;
    struct slice path;
    struct slice query;
    struct slice method;
    const struct h1_field *fields;
    uint32_t field_count;
    int64_t now_s; /* Unix time; 0: the clock's, which is only asked when a route has a time */
};

/* Index of the listener with that slot, -1: the image does not have it. */
int32_t match_listener(const struct image *image, uint32_t slot);

/* Ask for the memory that match_route() will read, in two steps with other work behind each: of
 * many hosts it comes from far, and the second step must read what the first asked for. */
struct match_hint {
    const struct image *image;
    struct host_hint host;
};
struct match_hint match_expect(const struct image *image, uint32_t listener, struct slice host);
void match_expect_more(const struct match_hint *hint);

/* Index in ROUTE, -1: no route (answer 404). listener: index, not slot.
 *
 * The most specific host decides alone, unless its routes let what none of them matches fall
 * through to less specific ones (Gateway API). Within a host the first route by precedence that
 * matches. If none does, a "/" prefix route for any host (the default) takes the request. */
int32_t match_route(const struct image *image, uint32_t listener,
                    const struct match_request *request);

/* Index in CERTIFICATE for the server name of a ClientHello (empty: none sent), -1: reject. */
int32_t match_certificate(const struct image *image, uint32_t listener, struct slice name);

#endif
