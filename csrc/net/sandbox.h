/* The one way into the sandbox: own uid, no capability, no_new_privs, seccomp.
 *
 * Called once by worker/runtime.c after all rings were made and before the first thread, and by
 * the sandbox test. Cannot be undone. */
#ifndef EDGE_NET_SANDBOX_H
#define EDGE_NET_SANDBOX_H

#include "include/edge.h"

struct sandbox_options {
    uint32_t uid; /* 0: keep (not started as root) */
    uint32_t gid;
};

int sandbox_enter(const struct sandbox_options *options, struct edge_error *err);

#endif
