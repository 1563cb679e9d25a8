/* Host names: how they are normalised, and which host entry of a listener they mean.
 *
 * Called by matcher.c (Host field) and through it for server names of TLS. Never allocates. */
#ifndef EDGE_MATCH_HOST_H
#define EDGE_MATCH_HOST_H

#include "snapshot/image.h"

#define HOST_NAME_BYTES_MAX 253

/* A normalised name: lower case, without port and without the trailing dot. Empty: none given. */
struct host_name {
    uint32_t length;
    uint32_t hash; /* edge_text_hash of it */
    uint64_t tail; /* its last length % 8 bytes */
    char text[HOST_NAME_BYTES_MAX + 3];
};

enum host_result {
    HOST_OK = 0,
    HOST_INVALID = -1 /* not a host[:port] of RFC 3986 §3.2.2; the head parser refuses it too */
};

/* Names longer than any host name can be become empty: only "any host" may take them. */
enum host_result host_normalise(struct slice written, struct host_name *out);

/* Where the search for a name's own entry begins. entry: 0: nowhere. */
struct host_hint {
    const struct edge_image_host_entry *entry;
    uint32_t word; /* its first four bytes, if it is the one */
};

/* Ask for the memory of the bucket, and then for what it leads to; neither looks further. */
struct host_hint host_expect(const struct image *image, const struct edge_image_table *table,
                             const struct host_name *name);
void host_expect_more(const struct image *image, struct host_hint hint);

/* The host entries that a name may mean, the most specific first: exact, one-label wildcard, suffix
 * wildcards, any host. */
struct host_search {
    const struct image *image;
    const struct edge_image_table *table;
    const struct host_name *name;
    uint32_t next;   /* what to look up next */
    uint32_t suffix; /* where in the name the next suffix begins */
};
void host_search_init(struct host_search *search, const struct image *image,
                      const struct edge_image_table *table, const struct host_name *name);
/* Index in HOST_ENTRY, -1: no more. */
int32_t host_search_next(struct host_search *search);

/* Index in SNI_ENTRY, -1: none (the fallback is the caller's): exact, then one-label wildcard. */
int32_t host_lookup_server_name(const struct image *image, const struct edge_image_table *table,
                                const struct host_name *name);

#endif
