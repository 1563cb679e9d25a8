/* The part of the image builder that lays out upstreams with their endpoints.
 *
 * Called by build.c. They stand by slot, so that the same objects give the same bytes whatever the
 * order of fragments was. */
#include <stdlib.h>
#include <string.h>

#include "snapshot/builder.h"

static int take_slot(struct edge_builder *builder, struct item item, uint32_t slot,
                     struct upstream **out)
{
    const uint32_t before = builder->upstream_slots;

    if (slot >= EDGE_UPSTREAM_SLOTS)
        return builder_refuse(builder, item, EDGE_ERR_LIMIT, "slot", "over the limit");
    BUILDER_TRY(builder_room(builder, &builder->upstreams, &builder->upstream_slots, slot + 1,
                             sizeof(**out)));
    if (builder->upstream_slots > before)
        memset(builder->upstreams + before, 0, (builder->upstream_slots - before) * sizeof(**out));
    *out = &builder->upstreams[slot];
    return EDGE_OK;
}

int builder_put_upstream(struct edge_builder *builder, struct item item)
{
    const struct edge_image_upstream *given =
        &((const struct edge_fragment_upstream *)(const void *)item.head)->upstream;
    struct upstream *upstream;

    BUILDER_TRY(take_slot(builder, item, given->slot, &upstream));
    if (upstream->there)
        return builder_refuse(builder, item, EDGE_ERR_INVALID, "slot", "given twice");
    if (given->first_endpoint != 0 || given->endpoint_count != 0)
        return builder_refuse(builder, item, EDGE_ERR_INVALID, "endpoint_count", "must be zero");
    BUILDER_TRY(builder_keep(builder, item, given->name, "name", &upstream->name));
    upstream->entry = *given;
    upstream->number = item.number;
    upstream->there = true;
    return EDGE_OK;
}

int builder_put_endpoints(struct edge_builder *builder, struct item item)
{
    const struct edge_fragment_endpoints *fragment = (const void *)item.head;
    const uint32_t count = fragment->endpoint_count;
    struct upstream *upstream;
    const void *array;

    BUILDER_TRY(take_slot(builder, item, fragment->upstream_slot, &upstream));
    if (upstream->has_endpoints)
        return builder_refuse(builder, item, EDGE_ERR_INVALID, "slot", "given twice");
    BUILDER_TRY(builder_array(builder, item, fragment->endpoints_offset, count,
                              sizeof(*upstream->endpoints), "endpoints_offset", &array));
    upstream->endpoints = calloc(count + (size_t)1, sizeof(*upstream->endpoints));
    if (upstream->endpoints == NULL)
        return builder_no_memory(builder);
    upstream->has_endpoints = true;
    upstream->endpoints_number = item.number;
    if (count > 0)
        memcpy(upstream->endpoints, array, count * sizeof(*upstream->endpoints));
    for (; upstream->endpoint_count < count; upstream->endpoint_count++) {
        struct edge_text *zone = &upstream->endpoints[upstream->endpoint_count].zone;
        BUILDER_TRY(builder_keep(builder, item, *zone, "zone", &zone->offset));
    }
    return EDGE_OK;
}

void builder_drop_endpoints(struct edge_builder *builder, uint32_t slot)
{
    struct upstream *upstream;

    if (slot >= builder->upstream_slots)
        return;
    upstream = &builder->upstreams[slot];
    for (uint32_t i = 0; i < upstream->endpoint_count; i++)
        builder_forget(builder, upstream->endpoints[i].zone.offset);
    free(upstream->endpoints);
    upstream->endpoints = NULL;
    upstream->endpoint_count = 0;
    upstream->has_endpoints = false;
}

void builder_drop_upstream(struct edge_builder *builder, uint32_t slot)
{
    if (slot >= builder->upstream_slots || !builder->upstreams[slot].there)
        return;
    builder_forget(builder, builder->upstreams[slot].name);
    builder->upstreams[slot].there = false;
}

static int lay_endpoints(struct edge_builder *builder, const struct upstream *upstream,
                         struct edge_image_upstream *entry)
{
    const uint32_t count = upstream->endpoint_count;
    struct edge_image_endpoint *copy =
        builder_append(builder, EDGE_SECTION_ENDPOINT, count, upstream->endpoints_number);

    if (copy == NULL)
        return builder_no_memory(builder);
    entry->endpoint_count = count;
    if (count > 0)
        memcpy(copy, upstream->endpoints, count * sizeof(*copy));
    for (uint32_t i = 0; i < count; i++)
        BUILDER_TRY(builder_place(builder, copy[i].zone.offset, &copy[i].zone));
    return EDGE_OK;
}

int builder_lay_upstreams(struct edge_builder *builder)
{
    for (uint32_t slot = 0; slot < builder->upstream_slots; slot++) {
        const struct upstream *upstream = &builder->upstreams[slot];
        const struct item endpoints = {.number = upstream->endpoints_number};
        struct edge_image_upstream copy = upstream->entry, *entry;
        if (!upstream->there && upstream->has_endpoints)
            return builder_refuse(builder, endpoints, EDGE_ERR_REFERENCE, "upstream_slot",
                                  "no such upstream");
        if (!upstream->there)
            continue;
        copy.first_endpoint = builder->section[EDGE_SECTION_ENDPOINT].count;
        BUILDER_TRY(builder_place(builder, upstream->name, &copy.name));
        if (upstream->has_endpoints)
            BUILDER_TRY(lay_endpoints(builder, upstream, &copy));
        entry = builder_append(builder, EDGE_SECTION_UPSTREAM, 1, upstream->number);
        if (entry == NULL)
            return builder_no_memory(builder);
        *entry = copy;
    }
    return EDGE_OK;
}
