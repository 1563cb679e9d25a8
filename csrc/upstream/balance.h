/* Which upstream of a route, and which endpoint of an upstream, gets the next request.
 *
 * An interface of two functions; one policy a file (balance_rr.c). Called by the endpoint phase.
 * State belongs to one worker. Never looks at health (an issue of its own), never waits. */
#ifndef EDGE_UPSTREAM_BALANCE_H
#define EDGE_UPSTREAM_BALANCE_H

#include "snapshot/view.h"

struct balance {
    uint32_t *next_endpoint;  /* by upstream slot */
    uint32_t *next_reference; /* by route slot */
    uint32_t start;           /* where a slot's first turn begins */
};

int balance_init(struct balance *balance, uint64_t seed);
void balance_release(struct balance *balance);

/* Index of a reference by weight; -1: all weights are zero, or there is none. */
int32_t balance_reference(struct balance *balance, uint32_t route_slot,
                          const struct edge_image_reference *references, uint32_t count);

/* Index of a READY endpoint that is not among those tried; -1: none. */
int32_t balance_endpoint(struct balance *balance, const struct snapshot_upstream *upstream,
                         bool (*tried)(const void *owner,
                                       const struct edge_image_endpoint *endpoint),
                         const void *owner);

#endif
