/* Does a path match a route's path? Exact, Prefix by path element (Ingress v1), prefix by text.
 *
 * Called by paths.c for what its index does not hold, and for explanations. Works on the path as
 * the head parser gave it: nothing is decoded or merged here. Never allocates. */
#ifndef EDGE_MATCH_PATH_H
#define EDGE_MATCH_PATH_H

#include "base/slice.h"
#include "include/edge.h"

bool path_match(uint32_t type, struct slice pattern, struct slice path);

#endif
