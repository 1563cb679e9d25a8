/* Filters by their number in the image: the one place where a kind becomes a table of hooks.
 *
 * Called by proxy/exchange.c when a route was chosen. A new filter is a file here and a line in
 * policy.c. */
#ifndef EDGE_POLICY_POLICY_H
#define EDGE_POLICY_POLICY_H

#include "http/exchange.h"

/* 0: not a filter of this version (the image's check refuses those). */
const struct filter_hooks *policy_hooks(uint32_t kind);

extern const struct filter_hooks policy_delay;

#endif
