/* What the files of the validator share: where the walk is, and the small checks.
 *
 * Included by check.c, check_names.c, check_routes.c and check_paths.c only. Every function
 * returns EDGE_OK, or a code with the error filled. See check.c for what the check promises. */
#ifndef EDGE_SNAPSHOT_CHECK_H
#define EDGE_SNAPSHOT_CHECK_H

#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "snapshot/image.h"
#include "snapshot/limits.h"

struct walk {
    struct image image;
    struct edge_error *err;
    uint32_t section; /* where the walk is, for errors */
    uint32_t index;
};

#define REFUSE(walk, code, field, ...)                                                             \
    return error_at((walk)->err, (code), (walk)->section, (walk)->index, (field), __VA_ARGS__)

#define TRY(call)                                                                                  \
    do {                                                                                           \
        int try_rc = (call);                                                                       \
        if (try_rc != EDGE_OK)                                                                     \
            return try_rc;                                                                         \
    } while (0)

bool check_zero(const void *bytes, size_t length);
int check_text(struct walk *walk, struct edge_text text, const char *field, uint32_t max);

/* A list of another section, which must begin where the one before ended. */
int check_list(struct walk *walk, uint32_t first, uint32_t count, uint32_t section,
               uint32_t *cursor, const char *field);
/* An entry that several may name: first uses come in order, so that none is left out. */
int check_shared(struct walk *walk, uint32_t index, uint32_t section, uint32_t *seen,
                 const char *field);
int check_used_up(struct walk *walk, uint32_t section, uint32_t cursor);
int check_slot(struct walk *walk, uint64_t *seen, uint32_t slot, uint32_t slots);

/* check_names.c: the buckets of all tables of a kind; *used: entries that are buckets. */
int check_tables(struct walk *walk, bool server_names, uint32_t *used);
int check_server_names(struct walk *walk);

/* check_routes.c: every route and what it shares. upstream_slots: bits of those that are there. */
int check_routes(struct walk *walk, const uint64_t *upstream_slots);

/* check_paths.c: hosts, their routes' order and path indexes. Routes were checked. */
int check_hosts(struct walk *walk);

#endif
