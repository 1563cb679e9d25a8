/* What the workers read: one full image, with the endpoint patches that were applied to it.
 *
 * Made by the control thread (worker/control.c), published to workers by an atomic pointer, and
 * released by the control thread when every worker has passed on. A view never changes; a patch
 * makes a new one that shares the mappings. All functions here: control thread only (reference
 * counts are plain integers). Workers only read the fields. */
#ifndef EDGE_SNAPSHOT_VIEW_H
#define EDGE_SNAPSHOT_VIEW_H

#include "snapshot/image.h"

/* An upstream slot as it stands after all patches. */
struct snapshot_upstream {
    const struct edge_image_upstream *record;    /* NULL: nothing in this slot */
    const struct edge_image_endpoint *endpoints; /* record->endpoint_count of them */
    const char *text;                            /* base of record->name and of zones */
};

struct snapshot_mapping;

struct snapshot_view {
    struct image image;      /* the full image; its upstreams and endpoints may be outdated: */
    uint64_t version;        /* of the newest patch, or of the image */
    uint64_t base_version;   /* of the full image */
    uint32_t upstream_slots; /* length of upstreams */
    struct snapshot_upstream *upstreams; /* by slot; use this, not image.upstreams */
    struct snapshot_mapping **mappings;  /* image first, then patches still in use */
    uint32_t mapping_count;
};

/* Map a sealed memfd read-only. Refuses one that can still be written or shrunk. The descriptor
 * stays the caller's. Errors: SYSTEM, INVALID (seals), LIMIT. */
int snapshot_map(int fd, const uint8_t **bytes, uint64_t *size, struct edge_error *err);

/* Check a full image and make a view of it. On EDGE_OK the view owns the mapping (munmap at its
 * last release); else the mapping stays the caller's. Errors: edge_image_check()'s and NOMEM. */
int snapshot_view_create(const uint8_t *bytes, uint64_t size, struct snapshot_view **view,
                         struct edge_error *err);

/* Check a patch and make a new view: old with the patch's upstreams replaced. old stays valid and
 * is released on its own. Ownership as above. Errors: also BASE (old is another version),
 * REFERENCE (a slot or generation that old does not have). */
int snapshot_view_patch(const struct snapshot_view *old, const uint8_t *bytes, uint64_t size,
                        struct snapshot_view **view, struct edge_error *err);

void snapshot_view_release(struct snapshot_view *view);

/* The upstream in a slot, NULL when there is none (any number may be asked). Any thread. */
static inline const struct snapshot_upstream *snapshot_upstream(const struct snapshot_view *view,
                                                                uint32_t slot)
{
    if (slot >= view->upstream_slots || view->upstreams[slot].record == NULL)
        return NULL;
    return &view->upstreams[slot];
}

#endif
