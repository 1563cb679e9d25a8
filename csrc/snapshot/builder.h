/* What the files of the image builder share: fragments read, sections growing, texts gathered.
 *
 * Included by builder.c, build_hosts.c and build.c only. All functions return EDGE_OK or a code
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

/* Smallest power of two that is at most half full with so many names; one when there are none. */
uint32_t builder_buckets(uint32_t names);

/* build_hosts.c: routes under their hosts, with filters and references; all host tables. */
int builder_put_hosts(struct builder *builder);

/* build_hosts.c: certificates and the server name tables. */
int builder_put_server_names(struct builder *builder);

#endif
