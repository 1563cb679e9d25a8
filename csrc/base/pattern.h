/* Regular expressions (PCRE2) that foreign text may be given to: compiled once, limits on matching.
 *
 * Compiled by preparation (match/patterns.c, edge_pattern_check), matched by workers. An expression
 * must match the whole of its subject. No JIT: the sandbox allows no executable memory. */
#ifndef EDGE_BASE_PATTERN_H
#define EDGE_BASE_PATTERN_H

#include "base/slice.h"
#include "include/edge.h"

struct pattern;

/* Errors: LIMIT (too long, or too large when compiled), INVALID with PCRE2's words, NOMEM. */
int pattern_compile(struct slice text, struct pattern **out, struct edge_error *err);
void pattern_release(struct pattern *pattern);

/* Several threads may ask at once. false also when a limit was reached before there was a match:
 * an expression may try 100,000 steps, some 1 ms. */
bool pattern_matches(const struct pattern *pattern, struct slice subject);

#endif
