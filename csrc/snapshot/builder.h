/* What the files of the image builder share: fragments read, sections growing, texts gathered.
 *
 * Included by builder.c and the files build*.c only. All functions return EDGE_OK or a code
 * with builder->err filled. */
#ifndef EDGE_SNAPSHOT_BUILDER_H
#define EDGE_SNAPSHOT_BUILDER_H

#include "snapshot/image.h"
#include "snapshot/limits.h"

/* Entries of one section while they grow. */
struct section {
    uint8_t *bytes;
    uint32_t *origin; /* number of the fragment, for each entry; not for texts */
    uint32_t count;
    uint32_t room;
};

struct item {
    const struct edge_fragment *head;
    uint32_t number;
};

struct items {
    struct item *at;
    uint32_t count;
};

/* Which entries of a section are there already, so that equal ones are stored once. */
struct share {
    uint32_t *slots; /* index + 1, open addressing */
    uint32_t *hashes;
    uint32_t mask;
    uint32_t count;
};

struct domain {
    uint32_t number;
    uint32_t host_names; /* names with a bucket of their own */
    uint32_t server_names;
    bool any_host;
};

struct builder {
    const struct edge_build_options *options;
    struct edge_error *err;
    struct items items[EDGE_FRAGMENT_CERTIFICATE + 1]; /* by enum edge_fragment_kind */
    struct section section[EDGE_SECTION_COUNT];
    struct domain domain[LIMIT_DOMAINS];
    uint32_t domain_count;
    struct share share[EDGE_SECTION_COUNT];
    uint32_t *interned; /* offset + 1 of texts, open addressing; lengths in intern_length */
    uint32_t *intern_length;
    uint32_t intern_mask;
    uint32_t intern_count;
};

#define BUILDER_TRY(call)                                                                          \
    do {                                                                                           \
        int try_rc = (call);                                                                       \
        if (try_rc != EDGE_OK)                                                                     \
            return try_rc;                                                                         \
    } while (0)

int builder_no_memory(struct builder *builder);

int builder_refuse(struct builder *builder, struct item item, int code, const char *field,
                   const char *reason);

/* Sort fragments into builder->items by kind; their sizes are believed afterwards. */
int builder_collect(struct builder *builder, const uint8_t *fragments, size_t bytes);

/* An array, or a text, inside the fragment. */
int builder_array(struct builder *builder, struct item item, uint32_t offset, uint32_t count,
                  size_t entry_bytes, const char *field, const void **out);
int builder_text(struct builder *builder, struct item item, struct edge_text text,
                 const char *field, struct slice *out);

/* count new zeroed entries of a section; NULL: no memory. */
void *builder_append(struct builder *builder, uint32_t number, uint32_t count, uint32_t origin);

/* The text's place in the text section; the same text is stored once. */
int builder_intern(struct builder *builder, struct slice text, struct edge_text *out);

/* Turn a text of the fragment into one of the image, in place in an image entry. */
int builder_move_text(struct builder *builder, struct item item, struct edge_text *text,
                      const char *field);

int builder_domain(struct builder *builder, struct item item, uint32_t number, struct domain **out);

/* Smallest power of two that is at most four fifths full with so many names, and never quite; one
 * when there are none. Fewer lines of memory save more than the longer probes cost. */
uint32_t builder_buckets(uint32_t names);

/* Where an entry equal to `wanted` is noted: *slot is its index + 1, or 0, and then the caller
 * appends one and writes its index + 1 there before the next call. */
typedef bool builder_same(const struct builder *builder, uint32_t index, const void *wanted);
int builder_share(struct builder *builder, uint32_t section, uint32_t hash, builder_same *same,
                  const void *wanted, uint32_t **slot);

static inline const struct edge_image_route *builder_route(const struct builder *builder,
                                                           uint32_t index)
{
    return (const struct edge_image_route *)(const void *)builder->section[EDGE_SECTION_ROUTE]
               .bytes +
           index;
}

static inline struct slice builder_stored(const struct builder *builder, struct edge_text text)
{
    return (struct slice){(const char *)builder->section[EDGE_SECTION_TEXT].bytes + text.offset,
                          text.length};
}

/* build_routes.c: one route with what it shares with others; at the end of the ROUTE section. */
int builder_put_route(struct builder *builder, struct item item);

/* build_paths.c: the path index of the host with routes [first, first + count). */
int builder_put_paths(struct builder *builder, uint32_t first, uint32_t count, uint32_t flags,
                      uint32_t origin, uint32_t *index);
/* Fill EDGE_PATHS_ORDERED in the finished image. */
void builder_order_paths(uint8_t *bytes);

/* build_hosts.c: routes under their hosts; all host tables. */
int builder_put_hosts(struct builder *builder);

/* build_names.c: certificates and the server name tables. */
int builder_put_server_names(struct builder *builder);

#endif
