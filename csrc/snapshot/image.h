/* A checked image as typed pointers.
 *
 * Filled by image_open() after edge_image_check() said OK; read by match, policy, proxy, worker.
 * Never checks anything itself, owns no memory, is valid as long as the bytes are mapped. */
#ifndef EDGE_SNAPSHOT_IMAGE_H
#define EDGE_SNAPSHOT_IMAGE_H

#include "base/slice.h"
#include "include/edge.h"

struct pattern_set;

struct image {
    const struct edge_image_header *header;
    const struct edge_image_listener *listeners;
    const struct edge_image_table *sni_tables;
    const struct edge_image_sni_entry *sni_entries;
    const struct edge_image_table *host_tables;
    const struct edge_image_host_entry *host_entries;
    const struct edge_image_route *routes;
    const struct edge_image_filter *filters;
    const struct edge_image_reference *references;
    const struct edge_image_upstream *upstreams;
    const struct edge_image_endpoint *endpoints;
    const struct edge_image_certificate *certificates;
    const struct edge_image_prefix *prefixes;
    const struct edge_image_path_index *path_indexes;
    const struct edge_image_path_entry *path_entries;
    const struct edge_image_path_other *path_others;
    const struct edge_image_condition *conditions;
    const struct edge_image_field_match *field_matches;
    const struct edge_image_action *actions;
    const struct edge_image_object *objects;
    const struct edge_image_pattern *patterns;
    const char *text;
    const struct pattern_set *compiled; /* of `patterns`, by match/patterns.h; NULL: none matches */
    uint32_t count[EDGE_SECTION_COUNT]; /* entries by enum edge_section */
};

/* The bit of edge_image_table.wildcards for a suffix. */
static inline uint32_t image_wildcard_bit(struct slice suffix, uint8_t wildcard)
{
    uint32_t labels = 0;

    if (wildcard == EDGE_WILDCARD_NONE)
        return 0;
    if (wildcard == EDGE_WILDCARD_LABEL)
        return 1;
    for (size_t i = 0; i < suffix.length; i++)
        labels += suffix.at[i] == '.';
    return UINT32_C(1) << (labels < 31 ? labels : 31);
}

/* Bytes of one entry, 0 for a section number that does not exist. */
uint32_t image_entry_bytes(uint32_t section);

void image_open(struct image *image, const uint8_t *bytes);

/* Checksum over the image with its own field taken as zero. size: a multiple of 8. */
uint64_t image_checksum(const uint8_t *bytes, size_t size);

static inline struct slice image_text(const struct image *image, struct edge_text text)
{
    return (struct slice){image->text + text.offset, text.length};
}

static inline const struct edge_image_action *image_action(const struct image *image,
                                                           const struct edge_image_route *route)
{
    return &image->actions[route->action];
}

static inline const struct edge_image_object *image_object(const struct image *image,
                                                           const struct edge_image_route *route)
{
    return &image->objects[route->object];
}

static inline struct slice image_host_name(const struct image *image,
                                           const struct edge_image_host_entry *entry)
{
    return (struct slice){image->text + entry->name_offset, entry->name_length};
}

#endif
