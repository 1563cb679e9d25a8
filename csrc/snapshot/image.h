/* A checked image as typed pointers.
 *
 * Filled by image_open() after edge_image_check() said OK; read by match, policy, proxy, worker.
 * Never checks anything itself, owns no memory, is valid as long as the bytes are mapped. */
#ifndef EDGE_SNAPSHOT_IMAGE_H
#define EDGE_SNAPSHOT_IMAGE_H

#include "base/slice.h"
#include "include/edge.h"

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
    const char *text;
    uint32_t count[EDGE_SECTION_COUNT]; /* entries by enum edge_section */
};

/* Bytes of one entry, 0 for a section number that does not exist. */
uint32_t image_entry_bytes(uint32_t section);

void image_open(struct image *image, const uint8_t *bytes);

/* Checksum over the image with its own field taken as zero. size: a multiple of 8. */
uint64_t image_checksum(const uint8_t *bytes, size_t size);

static inline struct slice image_text(const struct image *image, struct edge_text text)
{
    return (struct slice){image->text + text.offset, text.length};
}

#endif
