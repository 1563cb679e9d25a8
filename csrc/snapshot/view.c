/* Views: one full image and the endpoint patches on top of it; see view.h.
 *
 * Called by the data plane's control thread alone. Mappings are counted, because a patch's view
 * goes on reading from the mappings of the view before it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "snapshot/view.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/huge.h"

struct snapshot_mapping {
    const uint8_t *bytes;
    uint64_t size;
    uint32_t views; /* that hold it */
};

/* Large images in huge pages: some milliseconds here, on the thread that prepares. */
static void *map(int fd, uint64_t size)
{
    /* Kernels before 6.7 refuse MAP_SHARED of what is sealed against writing. */
    void *memory = huge_map(fd, size, PROT_READ, MAP_PRIVATE);

    if (memory != MAP_FAILED)
        huge_collapse(memory, size & ~(HUGE_PAGE - 1));
    return memory;
}

int snapshot_map(int fd, const uint8_t **bytes, uint64_t *size, struct edge_error *err)
{
    const int wanted = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    const int seals = fcntl(fd, F_GET_SEALS);
    struct stat status;
    void *memory;

    if (seals < 0)
        return error_system(err, errno, "reading the seals");
    if ((seals & wanted) != wanted)
        return error_set(err, EDGE_ERR_INVALID, "the memory is not sealed");
    if (fstat(fd, &status) < 0)
        return error_system(err, errno, "fstat");
    if (status.st_size <= 0 || status.st_size > EDGE_IMAGE_BYTES_MAX)
        return error_set(err, EDGE_ERR_LIMIT, "%lld bytes", (long long)status.st_size);
    memory = map(fd, (uint64_t)status.st_size);
    if (memory == MAP_FAILED)
        return error_system(err, errno, "mmap");
    *bytes = memory;
    *size = (uint64_t)status.st_size;
    return EDGE_OK;
}

static struct snapshot_view *allocate(uint32_t slots, uint32_t mappings)
{
    struct snapshot_view *view = calloc(1, sizeof(*view));

    if (view == NULL)
        return NULL;
    view->upstreams = calloc(slots + (size_t)1, sizeof(*view->upstreams));
    view->mappings = calloc(mappings, sizeof(struct snapshot_mapping *));
    view->upstream_slots = slots;
    if (view->upstreams != NULL && view->mappings != NULL)
        return view;
    snapshot_view_release(view);
    return NULL;
}

static struct snapshot_mapping *hold(const uint8_t *bytes, uint64_t size)
{
    struct snapshot_mapping *mapping = malloc(sizeof(*mapping));

    if (mapping != NULL)
        *mapping = (struct snapshot_mapping){bytes, size, 1};
    return mapping;
}

static void set_upstream(struct snapshot_view *view, const struct image *image, uint32_t index)
{
    const struct edge_image_upstream *record = &image->upstreams[index];

    view->upstreams[record->slot] = (struct snapshot_upstream){
        .record = record,
        .endpoints = image->endpoints + record->first_endpoint,
        .text = image->text,
    };
}

int snapshot_view_create(const uint8_t *bytes, uint64_t size, struct snapshot_view **view,
                         struct edge_error *err)
{
    struct snapshot_view *fresh;
    struct image image;
    uint32_t slots = 0;
    int rc = edge_image_check(bytes, size, err);

    if (rc != EDGE_OK)
        return rc;
    image_open(&image, bytes);
    if (image.header->kind != EDGE_IMAGE_FULL)
        return error_at(err, EDGE_ERR_INVALID, 0, 0, "kind", "a full image is needed");
    for (uint32_t i = 0; i < image.count[EDGE_SECTION_UPSTREAM]; i++)
        if (image.upstreams[i].slot >= slots)
            slots = image.upstreams[i].slot + 1;
    fresh = allocate(slots, 1);
    if (fresh == NULL)
        return error_set(err, EDGE_ERR_NOMEM, "no memory for a view");
    fresh->mappings[0] = hold(bytes, size);
    if (fresh->mappings[0] == NULL) {
        snapshot_view_release(fresh);
        return error_set(err, EDGE_ERR_NOMEM, "no memory for a view");
    }
    fresh->mapping_count = 1;
    fresh->image = image;
    fresh->version = fresh->base_version = image.header->version;
    for (uint32_t i = 0; i < image.count[EDGE_SECTION_UPSTREAM]; i++)
        set_upstream(fresh, &image, i);
    *view = fresh;
    return EDGE_OK;
}

static int check_patch(const struct snapshot_view *old, const struct image *patch,
                       struct edge_error *err)
{
    if (patch->header->kind != EDGE_IMAGE_PATCH)
        return error_at(err, EDGE_ERR_INVALID, 0, 0, "kind", "a patch is needed");
    if (patch->header->base_version != old->version)
        return error_at(err, EDGE_ERR_BASE, 0, 0, "base_version", "for version %llu, this is %llu",
                        (unsigned long long)patch->header->base_version,
                        (unsigned long long)old->version);
    for (uint32_t i = 0; i < patch->count[EDGE_SECTION_UPSTREAM]; i++) {
        const struct edge_image_upstream *record = &patch->upstreams[i];
        const struct snapshot_upstream *known = snapshot_upstream(old, record->slot);
        if (known == NULL || known->record->generation != record->generation)
            return error_at(err, EDGE_ERR_REFERENCE, EDGE_SECTION_UPSTREAM, i, "slot",
                            "no upstream of that slot and generation");
    }
    return EDGE_OK;
}

/* Does anything in the view still point into the mapping? The image's own always counts. */
static bool in_use(const struct snapshot_view *view, const struct snapshot_mapping *mapping)
{
    for (uint32_t i = 0; i < view->upstream_slots; i++) {
        const uint8_t *record = (const void *)view->upstreams[i].record;
        if (record >= mapping->bytes && record < mapping->bytes + mapping->size)
            return true;
    }
    return false;
}

int snapshot_view_patch(const struct snapshot_view *old, const uint8_t *bytes, uint64_t size,
                        struct snapshot_view **view, struct edge_error *err)
{
    struct snapshot_mapping *mapping;
    struct snapshot_view *fresh;
    struct image patch;
    int rc = edge_image_check(bytes, size, err);

    if (rc != EDGE_OK)
        return rc;
    image_open(&patch, bytes);
    rc = check_patch(old, &patch, err);
    if (rc != EDGE_OK)
        return rc;
    mapping = hold(bytes, size);
    fresh = allocate(old->upstream_slots, old->mapping_count + 1);
    if (mapping == NULL || fresh == NULL) {
        free(mapping);
        snapshot_view_release(fresh);
        return error_set(err, EDGE_ERR_NOMEM, "no memory for a view");
    }
    fresh->image = old->image;
    fresh->version = patch.header->version;
    fresh->base_version = old->base_version;
    memcpy(fresh->upstreams, old->upstreams, old->upstream_slots * sizeof(*fresh->upstreams));
    for (uint32_t i = 0; i < patch.count[EDGE_SECTION_UPSTREAM]; i++)
        set_upstream(fresh, &patch, i);
    for (uint32_t i = 0; i < old->mapping_count; i++)
        if (i == 0 || in_use(fresh, old->mappings[i])) {
            old->mappings[i]->views++;
            fresh->mappings[fresh->mapping_count++] = old->mappings[i];
        }
    fresh->mappings[fresh->mapping_count++] = mapping;
    *view = fresh;
    return EDGE_OK;
}

void snapshot_view_release(struct snapshot_view *view)
{
    if (view == NULL)
        return;
    for (uint32_t i = 0; i < view->mapping_count; i++) {
        struct snapshot_mapping *mapping = view->mappings[i];
        if (--mapping->views > 0)
            continue;
        munmap((void *)(uintptr_t)mapping->bytes, mapping->size);
        free(mapping);
    }
    free(view->mappings);
    free(view->upstreams);
    free(view);
}
