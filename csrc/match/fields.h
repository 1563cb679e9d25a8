/* Conditions of a route beside host and path: method, headers, query parameters, time.
 *
 * Called by matcher.c for routes that have any. Never allocates. */
#ifndef EDGE_MATCH_FIELDS_H
#define EDGE_MATCH_FIELDS_H

#include "match/matcher.h"

/* EDGE_VERDICT_WON when all hold, else EDGE_VERDICT_FIELD with *field the index of the first field
 * match that does not, or EDGE_VERDICT_TIME. field may be NULL. */
uint32_t fields_verdict(const struct image *image, const struct edge_image_condition *condition,
                        const struct match_request *request, uint32_t *field);

#endif
