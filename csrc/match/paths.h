/* A request's path in a host's path index: which routes can take it, and the best that does.
 *
 * Called by matcher.c. The cost hangs on the number of element counts in use, not on the number of
 * routes. Never allocates. */
#ifndef EDGE_MATCH_PATHS_H
#define EDGE_MATCH_PATHS_H

#include "match/matcher.h"

/* Index in ROUTE of the host's best route, -1: none. */
int32_t paths_match(const struct image *image, const struct edge_image_host_entry *host,
                    const struct match_request *request);

/* The best "/" prefix route of a host alone, -1: none. */
int32_t paths_match_root(const struct image *image, const struct edge_image_host_entry *host,
                         const struct match_request *request);

/* What becomes of one route, looked at by itself: EDGE_VERDICT_SHADOWED when it matches. */
uint32_t paths_verdict(const struct image *image, const struct edge_image_route *route,
                       const struct match_request *request, uint32_t *field);

#endif
