/* Filling a struct edge_error at the place where something is refused.
 *
 * Called by every function that takes a struct edge_error; never logs, never allocates. */
#ifndef EDGE_BASE_ERROR_H
#define EDGE_BASE_ERROR_H

#include "include/edge.h"

/* All return code, so that a refusal is one return statement. err may be NULL. field and reason
 * are cut to what fits. */
int error_set(struct edge_error *err, int code, const char *reason, ...)
    __attribute__((format(printf, 3, 4)));

int error_at(struct edge_error *err, int code, uint32_t section, uint32_t index, const char *field,
             const char *reason, ...) __attribute__((format(printf, 6, 7)));

/* EDGE_ERR_SYSTEM with the given errno; what: the call or thing that failed. */
int error_system(struct edge_error *err, int sys_errno, const char *what);

#endif
