/* What the files of the image builder share: objects kept between images, sections of the next one.
 *
 * Included by builder.c and the files build*.c only. An object's fragment is read once, when it is
 * put; its texts and what it shares with others are then atoms (atoms.h), so that an image is laid
 * out by copying, without a hash or a comparison of texts. The same objects give the same bytes,
 * whatever came and went before. All functions return EDGE_OK or a code with builder->err filled;
 * after an error a builder can only be closed. */
#ifndef EDGE_SNAPSHOT_BUILDER_H
#define EDGE_SNAPSHOT_BUILDER_H

#include "snapshot/image.h"
#include "snapshot/limits.h"
#include "snapshot/atoms.h"

/* Entries of one section of the image that is laid out; the room stays for the next one. */
struct section {
    uint8_t *bytes;
    uint32_t *origin; /* number of the fragment, for each entry; not for texts */
    uint32_t count;
    uint32_t room;
};

struct item {
    const struct edge_fragment *head;
    uint32_t number; /* what a refusal names it by */
};

/* Fragments that are kept as they are; of listeners and certificates there are few. */
struct items {
    struct item *at;
    uint32_t count;
};

struct domain {
    uint32_t number;
    uint32_t host_names; /* names with a bucket of their own */
    uint32_t server_names;
    uint32_t any_host; /* index + 1 in hosts */
};

/* Numbers of entries of all stand where the image has indexes or offsets. */
struct route {
    struct edge_image_route entry;
    struct host *host;
    int64_t created_s;
    uint32_t number;
    uint32_t path, written, object, action;
    uint32_t condition; /* ATOM_NONE: none */
    uint32_t place;     /* in host->routes */
    bool fall_through;
};

struct host {
    uint32_t domain, wildcard, name, hash;
    uint32_t id; /* among host_keys */
    struct route **routes;
    uint32_t count, room;
    uint32_t list;  /* an atom; ATOM_NONE: its routes changed */
    uint32_t flags; /* EDGE_PATHS_FALL_THROUGH */
};

struct upstream {
    struct edge_image_upstream entry;
    struct edge_image_endpoint *endpoints; /* zone.offset: a text */
    uint32_t endpoint_count;
    uint32_t name;
    uint32_t number, endpoints_number;
    bool there, has_endpoints;
};

struct edge_builder {
    const struct edge_build_options *options;
    struct edge_error *err;
    bool by_slot;         /* fragments are known by kind and slot, else by their place */
    uint32_t next_number; /* by place */

    /* The objects. */
    struct items items[EDGE_FRAGMENT_CERTIFICATE + 1]; /* of LISTENER and CERTIFICATE */
    struct route **routes;                             /* by slot */
    uint32_t route_slots;
    struct upstream *upstreams; /* by slot */
    uint32_t upstream_slots;
    struct host **hosts; /* in order, then those that came since the last image */
    uint32_t host_count, host_room, hosts_sorted;
    bool host_left; /* one has no route any more */

    /* What they share. */
    struct atoms texts;
    struct atoms objects;    /* struct object_key */
    struct atoms actions;    /* struct action_key and lists */
    struct atoms conditions; /* struct condition_key and fields */
    struct atoms lists;      /* struct list_key and paths; extra: struct paths */
    struct atoms host_keys;  /* struct host_key; extra: struct host */
    bool has_patterns;

    /* The image that is laid out. */
    struct section section[EDGE_SECTION_COUNT];
    struct domain domain[LIMIT_DOMAINS];
    uint32_t domain_count;
    uint32_t *patterns; /* index + 1 by text */
    uint32_t pattern_room;
    uint32_t *placed_lists; /* by index in PATH_INDEX */
    uint32_t placed_room;
    uint32_t *host_of_entry; /* index + 1 in hosts, by HOST_ENTRY */
    uint32_t entry_room;
    struct edge_image image; /* the last one */
    uint64_t image_room;
};

#define BUILDER_TRY(call)                                                                          \
    do {                                                                                           \
        int try_rc = (call);                                                                       \
        if (try_rc != EDGE_OK)                                                                     \
            return try_rc;                                                                         \
    } while (0)

int builder_no_memory(struct edge_builder *builder);

int builder_refuse(struct edge_builder *builder, struct item item, int code, const char *field,
                   const char *reason);

/* Bytes of a fragment's struct, behind which its arrays stand; 0: there is no such kind. */
size_t builder_head_bytes(uint32_t kind);

/* An array, or a text, inside the fragment. */
int builder_array(struct edge_builder *builder, struct item item, uint32_t offset, uint32_t count,
                  size_t entry_bytes, const char *field, const void **out);
int builder_text(struct edge_builder *builder, struct item item, struct edge_text text,
                 const char *field, struct slice *out);

/* A text of the fragment as an atom, used once more. */
int builder_keep(struct edge_builder *builder, struct item item, struct edge_text text,
                 const char *field, uint32_t *id);
void builder_forget(struct edge_builder *builder, uint32_t text);

static inline struct slice builder_kept(const struct edge_builder *builder, uint32_t text)
{
    const struct atom *entry = &builder->texts.at[text];

    return (struct slice){(const char *)entry->bytes, entry->length};
}

/* Room for count elements in an array that grows. */
int builder_room(struct edge_builder *builder, void *array, uint32_t *room, uint32_t count,
                 size_t element);

/* count new zeroed entries of a section; NULL: no memory. */
void *builder_append(struct edge_builder *builder, uint32_t number, uint32_t count,
                     uint32_t origin);

/* The text's place in the image; the same text is stored once. */
int builder_place(struct edge_builder *builder, uint32_t text, struct edge_text *out);

int builder_domain(struct edge_builder *builder, struct item item, uint32_t number,
                   struct domain **out);

/* Smallest power of two that is at most four fifths full with so many names, and never quite; one
 * when there are none. Fewer lines of memory save more than the longer probes cost. */
uint32_t builder_buckets(uint32_t names);

/* build_upstreams.c */
int builder_put_upstream(struct edge_builder *builder, struct item item);
int builder_put_endpoints(struct edge_builder *builder, struct item item);
void builder_drop_upstream(struct edge_builder *builder, uint32_t slot);
void builder_drop_endpoints(struct edge_builder *builder, uint32_t slot);
int builder_lay_upstreams(struct edge_builder *builder);

/* build_routes.c: one route with what it shares with others; at the end of the ROUTE section. */
int builder_read_route(struct edge_builder *builder, struct item item, struct route *route);
void builder_release_route(struct edge_builder *builder, const struct route *route);
int builder_lay_route(struct edge_builder *builder, const struct route *route, uint32_t next);

/* build_paths.c: the path index of a host, whose routes are in order. */
int builder_list_paths(struct edge_builder *builder, struct host *host);
void builder_release_list(struct edge_builder *builder, uint32_t list);
const uint32_t *builder_chains(const struct edge_builder *builder, uint32_t list);
int builder_lay_paths(struct edge_builder *builder, const struct host *host, uint32_t first,
                      uint32_t *index);
void builder_order_paths(struct edge_builder *builder);

/* build_hosts.c: routes under their hosts; all host tables. */
int builder_put_route(struct edge_builder *builder, struct item item);
void builder_drop_route(struct edge_builder *builder, uint32_t slot);
int builder_settle_hosts(struct edge_builder *builder);
int builder_lay_hosts(struct edge_builder *builder);
void builder_close_hosts(struct edge_builder *builder);

/* build_names.c: certificates and the server name tables. In a copy that the builder keeps the
 * names become atoms. */
int builder_keep_names(struct edge_builder *builder, struct item item);
void builder_forget_names(struct edge_builder *builder, struct item item);
int builder_lay_server_names(struct edge_builder *builder);

#endif
