/* Fragments -> image: objects kept and let go, sections laid out, put one behind the other, sealed.
 *
 * Called by the controller through cffi, with bytes that edge/dataplane/tables.py encoded; never
 * by the data plane. What a value may be is decided by check.c alone, which runs over the result:
 * every entry remembers the fragment it came from, so that a refusal can name it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "snapshot/builder.h"

#define FEW 64

/* ---- Objects ---- */

static int keep_whole(struct edge_builder *builder, struct item item)
{
    struct items *items = &builder->items[item.head->kind];
    void *copy, *grown = realloc(items->at, (items->count + (size_t)1) * sizeof(item));

    if (grown == NULL)
        return builder_no_memory(builder);
    items->at = grown;
    copy = malloc(item.head->bytes);
    if (copy == NULL)
        return builder_no_memory(builder);
    memcpy(copy, item.head, item.head->bytes);
    items->at[items->count++] = (struct item){copy, item.number};
    if (item.head->kind == EDGE_FRAGMENT_CERTIFICATE)
        return builder_keep_names(builder, items->at[items->count - 1]);
    return EDGE_OK;
}

static void drop_whole(struct edge_builder *builder, uint32_t kind)
{
    struct items *items = &builder->items[kind];

    for (uint32_t i = 0; i < items->count; i++)
        free((void *)(uintptr_t)items->at[i].head);
    free(items->at);
    *items = (struct items){.at = NULL};
}

static uint32_t slot_of(const struct edge_builder *builder, const struct edge_fragment *head)
{
    switch (head->kind) {
    case EDGE_FRAGMENT_ROUTE:
        return ((const struct edge_fragment_route *)(const void *)head)->route.slot;
    case EDGE_FRAGMENT_UPSTREAM:
        return ((const struct edge_fragment_upstream *)(const void *)head)->upstream.slot;
    case EDGE_FRAGMENT_ENDPOINTS:
        return ((const struct edge_fragment_endpoints *)(const void *)head)->upstream_slot;
    default:
        return builder->items[head->kind].count;
    }
}

static int put(struct edge_builder *builder, struct item item)
{
    if (builder->by_slot)
        item.number = edge_builder_number(item.head->kind, slot_of(builder, item.head));
    switch (item.head->kind) {
    case EDGE_FRAGMENT_ROUTE:
        return builder_put_route(builder, item);
    case EDGE_FRAGMENT_UPSTREAM:
        return builder_put_upstream(builder, item);
    case EDGE_FRAGMENT_ENDPOINTS:
        return builder_put_endpoints(builder, item);
    default:
        return keep_whole(builder, item);
    }
}

/* Routes that come together, to be put in the order of their hosts' buckets. */
struct batch {
    struct batched {
        struct item item;
        uint32_t hash;
    } *at;
    uint32_t count, room;
};

static int by_bucket(const void *left, const void *right, void *mask)
{
    const struct batched *a = left, *b = right;
    const uint32_t x = a->hash & *(uint32_t *)mask, y = b->hash & *(uint32_t *)mask;

    return x != y ? (x > y) - (x < y)
                  : (a->item.number > b->item.number) - (a->item.number < b->item.number);
}

/* Many at once are put in about the order in which they will be laid out: then what is read one
 * after the other stands so in memory, and an image takes half of the time. */
static int put_routes(struct edge_builder *builder, struct batch *batch)
{
    uint32_t mask = builder_buckets(batch->count / 2) - 1;

    if (batch->count > FEW)
        qsort_r(batch->at, batch->count, sizeof(*batch->at), by_bucket, &mask);
    for (uint32_t i = 0; i < batch->count; i++)
        BUILDER_TRY(put(builder, batch->at[i].item));
    return EDGE_OK;
}

static int batch_route(struct edge_builder *builder, struct item item, struct batch *batch)
{
    const struct edge_fragment_route *fragment = (const void *)item.head;
    struct slice host = {0};

    BUILDER_TRY(builder_text(builder, item, fragment->host, "host", &host));
    BUILDER_TRY(
        builder_room(builder, &batch->at, &batch->room, batch->count + 1, sizeof(*batch->at)));
    batch->at[batch->count++] = (struct batched){item, edge_text_hash(host.at, host.length)};
    return EDGE_OK;
}

static int put_each(struct edge_builder *builder, const uint8_t *fragments, size_t bytes,
                    uint32_t kind, struct batch *batch)
{
    size_t at = 0;

    if ((uintptr_t)fragments % 8 != 0)
        return error_set(builder->err, EDGE_ERR_INVALID, "fragments must start at a multiple of 8");
    if (bytes > 2 * (size_t)EDGE_IMAGE_BYTES_MAX)
        return error_set(builder->err, EDGE_ERR_LIMIT, "%zu bytes of fragments", bytes);
    while (at < bytes) {
        struct item item = {(const void *)(fragments + at), builder->next_number++};
        if (bytes - at < sizeof(*item.head) || item.head->bytes > bytes - at)
            return builder_refuse(builder, item, EDGE_ERR_TRUNCATED, "bytes",
                                  "the fragment is cut off");
        if (builder_head_bytes(item.head->kind) == 0)
            return builder_refuse(builder, item, EDGE_ERR_INVALID, "kind",
                                  "unknown kind of fragment");
        if (item.head->bytes < builder_head_bytes(item.head->kind) || item.head->bytes % 8 != 0)
            return builder_refuse(builder, item, EDGE_ERR_INVALID, "bytes",
                                  "a size that cannot be");
        if (kind == EDGE_IMAGE_PATCH && item.head->kind != EDGE_FRAGMENT_UPSTREAM &&
            item.head->kind != EDGE_FRAGMENT_ENDPOINTS)
            return builder_refuse(builder, item, EDGE_ERR_INVALID, "kind",
                                  "not allowed in a patch");
        BUILDER_TRY(item.head->kind == EDGE_FRAGMENT_ROUTE ? batch_route(builder, item, batch)
                                                           : put(builder, item));
        at += item.head->bytes;
    }
    return put_routes(builder, batch);
}

static int put_all(struct edge_builder *builder, const uint8_t *fragments, size_t bytes,
                   uint32_t kind)
{
    struct batch batch = {.at = NULL};
    int rc = put_each(builder, fragments, bytes, kind, &batch);

    free(batch.at);
    return rc;
}

/* ---- Layout ---- */

static int find_domains(struct edge_builder *builder)
{
    const struct items *listeners = &builder->items[EDGE_FRAGMENT_LISTENER];
    const struct items *certificates = &builder->items[EDGE_FRAGMENT_CERTIFICATE];
    struct domain *domain;

    /* Every domain gets a host table and a server name table, so both have its index. */
    for (uint32_t i = 0; i < listeners->count; i++)
        BUILDER_TRY(builder_domain(
            builder, listeners->at[i],
            ((const struct edge_fragment_listener *)(const void *)listeners->at[i].head)->domain,
            &domain));
    for (uint32_t i = 0; i < builder->host_count; i++)
        BUILDER_TRY(builder_domain(builder,
                                   (struct item){.number = builder->hosts[i]->routes[0]->number},
                                   builder->hosts[i]->domain, &domain));
    for (uint32_t i = 0; i < certificates->count; i++)
        BUILDER_TRY(builder_domain(
            builder, certificates->at[i],
            ((const struct edge_fragment_certificate *)(const void *)certificates->at[i].head)
                ->domain,
            &domain));
    return EDGE_OK;
}

static int lay_listeners(struct edge_builder *builder)
{
    const struct items *given = &builder->items[EDGE_FRAGMENT_LISTENER];

    for (uint32_t i = 0; i < given->count; i++) {
        const struct edge_fragment_listener *fragment = (const void *)given->at[i].head;
        struct edge_image_listener copy = fragment->listener, *entry;
        struct edge_image_prefix *prefixes;
        struct domain *domain;
        const void *array;
        uint32_t index;
        if (copy.first_trusted != 0 || copy.host_table != 0 || copy.sni_table != 0)
            return builder_refuse(builder, given->at[i], EDGE_ERR_INVALID, "host_table",
                                  "must be zero");
        BUILDER_TRY(builder_domain(builder, given->at[i], fragment->domain, &domain));
        BUILDER_TRY(builder_array(builder, given->at[i], fragment->trusted_offset,
                                  copy.trusted_count, sizeof(*prefixes), "trusted_offset", &array));
        index = (uint32_t)(domain - builder->domain);
        copy.host_table = index;
        copy.sni_table = copy.transport == EDGE_TRANSPORT_TLS ? index + 1 : 0;
        copy.first_trusted = builder->section[EDGE_SECTION_PREFIX].count;
        prefixes =
            builder_append(builder, EDGE_SECTION_PREFIX, copy.trusted_count, given->at[i].number);
        entry = builder_append(builder, EDGE_SECTION_LISTENER, 1, given->at[i].number);
        if (prefixes == NULL || entry == NULL)
            return builder_no_memory(builder);
        memcpy(prefixes, array, copy.trusted_count * sizeof(*prefixes));
        *entry = copy;
    }
    return EDGE_OK;
}

static uint64_t align(uint64_t bytes)
{
    return (bytes + 63) & ~UINT64_C(63);
}

/* The memory of the last image, if the next one fits. */
static int image_room(struct edge_builder *builder, uint64_t bytes)
{
    struct edge_image *image = &builder->image;

    if (image->bytes == NULL || builder->image_room < bytes) {
        edge_image_free(image);
        builder->image_room = align(bytes + bytes / 8);
        image->bytes = aligned_alloc(64, builder->image_room);
        if (image->bytes == NULL)
            return builder_no_memory(builder);
    }
    image->size = bytes;
    return EDGE_OK;
}

static int assemble(struct edge_builder *builder)
{
    const struct edge_build_options *options = builder->options;
    struct edge_image_header header = {
        .magic = EDGE_IMAGE_MAGIC,
        .abi = EDGE_ABI_VERSION,
        .kind = options->kind,
        .version = options->version,
        .base_version = options->base_version,
        .section_count = EDGE_SECTION_COUNT - 1,
    };
    uint64_t at = align(sizeof(header));
    uint8_t *bytes;

    memcpy(header.routes_digest, options->routes_digest, sizeof(header.routes_digest));
    memcpy(header.endpoints_digest, options->endpoints_digest, sizeof(header.endpoints_digest));
    for (uint32_t i = 1; i < EDGE_SECTION_COUNT; i++) {
        header.section[i] = (struct edge_section_entry){
            .offset = at,
            .count = builder->section[i].count,
            .entry_bytes = image_entry_bytes(i),
        };
        at = align(at + (uint64_t)builder->section[i].count * image_entry_bytes(i));
    }
    if (at > EDGE_IMAGE_BYTES_MAX)
        return error_set(builder->err, EDGE_ERR_LIMIT, "the image would be too large");
    header.total_bytes = at;
    BUILDER_TRY(image_room(builder, at));
    bytes = builder->image.bytes;
    memset(bytes, 0, align(sizeof(header)));
    memcpy(bytes, &header, sizeof(header));
    for (uint32_t i = 1; i < EDGE_SECTION_COUNT; i++) {
        const size_t size = (size_t)builder->section[i].count * image_entry_bytes(i);
        uint8_t *section = bytes + header.section[i].offset;
        if (size > 0)
            memcpy(section, builder->section[i].bytes, size);
        memset(section + size, 0, align(size) - size);
    }
    builder_order_paths(builder);
    edge_image_seal(bytes, at);
    return EDGE_OK;
}

/* The check speaks of entries; the caller knows fragments. */
static int check_result(struct edge_builder *builder)
{
    struct edge_error found = {0};
    int rc = edge_image_check(builder->image.bytes, builder->image.size, &found);

    if (rc == EDGE_OK)
        return EDGE_OK;
    if (found.section > 0 && found.section < EDGE_SECTION_COUNT) {
        const struct section *section = &builder->section[found.section];
        if (section->origin != NULL && found.index < section->count)
            found.index = section->origin[found.index];
    }
    if (builder->err != NULL)
        *builder->err = found;
    return rc;
}

/* Nothing is laid out yet. */
static int begin(struct edge_builder *builder)
{
    struct atoms *all[] = {&builder->texts, &builder->objects, &builder->actions,
                           &builder->conditions, &builder->lists};

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        atoms_unplace(all[i]);
    for (uint32_t i = 0; i < EDGE_SECTION_COUNT; i++)
        builder->section[i].count = 0;
    builder->domain_count = 0;
    if (!builder->has_patterns)
        return EDGE_OK;
    BUILDER_TRY(builder_room(builder, &builder->patterns, &builder->pattern_room,
                             builder->texts.count, sizeof(uint32_t)));
    memset(builder->patterns, 0, builder->pattern_room * sizeof(uint32_t));
    return EDGE_OK;
}

static int lay_out(struct edge_builder *builder)
{
    const struct edge_build_options *options = builder->options;

    if ((options->kind != EDGE_IMAGE_FULL && options->kind != EDGE_IMAGE_PATCH) ||
        options->reserved != 0)
        return error_set(builder->err, EDGE_ERR_INVALID, "unknown kind of image");
    BUILDER_TRY(builder_settle_hosts(builder));
    BUILDER_TRY(begin(builder));
    BUILDER_TRY(find_domains(builder));
    BUILDER_TRY(builder_lay_upstreams(builder));
    if (options->kind == EDGE_IMAGE_FULL) {
        BUILDER_TRY(builder_lay_server_names(builder));
        BUILDER_TRY(builder_lay_hosts(builder));
        BUILDER_TRY(lay_listeners(builder));
    }
    BUILDER_TRY(assemble(builder));
    return check_result(builder);
}

/* ---- For callers ---- */

uint32_t edge_builder_number(uint32_t kind, uint32_t slot)
{
    return kind << 24 | (slot & 0xffffff);
}

int edge_builder_open(struct edge_builder **out)
{
    *out = calloc(1, sizeof(**out));
    if (*out == NULL)
        return EDGE_ERR_NOMEM;
    (*out)->by_slot = true;
    return EDGE_OK;
}

static void release(struct edge_builder *builder)
{
    struct atoms *all[] = {&builder->texts,      &builder->objects, &builder->actions,
                           &builder->conditions, &builder->lists,   &builder->host_keys};

    builder_close_hosts(builder);
    for (uint32_t slot = 0; slot < builder->upstream_slots; slot++)
        free(builder->upstreams[slot].endpoints);
    free(builder->upstreams);
    for (uint32_t kind = 0; kind <= EDGE_FRAGMENT_CERTIFICATE; kind++)
        drop_whole(builder, kind);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        atoms_close(all[i]);
    for (uint32_t i = 0; i < EDGE_SECTION_COUNT; i++) {
        free(builder->section[i].bytes);
        free(builder->section[i].origin);
    }
    free(builder->patterns);
    free(builder->placed_lists);
    free(builder->host_of_entry);
    edge_image_free(&builder->image);
}

void edge_builder_close(struct edge_builder *builder)
{
    if (builder != NULL)
        release(builder);
    free(builder);
}

int edge_builder_put(struct edge_builder *builder, const uint8_t *fragments, size_t bytes,
                     struct edge_error *err)
{
    builder->err = err;
    return put_all(builder, fragments, bytes, EDGE_IMAGE_FULL);
}

void edge_builder_drop(struct edge_builder *builder, uint32_t kind, uint32_t slot)
{
    switch (kind) {
    case EDGE_FRAGMENT_ROUTE:
        builder_drop_route(builder, slot);
        break;
    case EDGE_FRAGMENT_UPSTREAM:
        builder_drop_upstream(builder, slot);
        break;
    case EDGE_FRAGMENT_ENDPOINTS:
        builder_drop_endpoints(builder, slot);
        break;
    case EDGE_FRAGMENT_CERTIFICATE:
        for (uint32_t i = 0; i < builder->items[kind].count; i++)
            builder_forget_names(builder, builder->items[kind].at[i]);
        drop_whole(builder, kind);
        break;
    case EDGE_FRAGMENT_LISTENER:
        drop_whole(builder, kind);
        break;
    default:
        break;
    }
}

int edge_builder_image(struct edge_builder *builder, const struct edge_build_options *options,
                       struct edge_image *out, struct edge_error *err)
{
    int rc;

    builder->err = err;
    builder->options = options;
    rc = lay_out(builder);
    *out = rc == EDGE_OK ? builder->image : (struct edge_image){0};
    return rc;
}

int edge_image_build(const uint8_t *fragments, size_t bytes,
                     const struct edge_build_options *options, struct edge_image *out,
                     struct edge_error *err)
{
    struct edge_builder builder = {.options = options, .err = err};
    int rc = put_all(&builder, fragments, bytes, options->kind);

    if (rc == EDGE_OK)
        rc = lay_out(&builder);
    *out = (struct edge_image){0};
    if (rc == EDGE_OK) {
        *out = builder.image;
        builder.image = (struct edge_image){0};
    }
    release(&builder);
    return rc;
}

void edge_image_free(struct edge_image *image)
{
    free(image->bytes);
    *image = (struct edge_image){0};
}
