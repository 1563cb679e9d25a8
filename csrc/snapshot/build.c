/* Fragments -> image: upstreams, listeners, and the sections put one behind the other and sealed.
 *
 * Called by the controller through cffi, with bytes that edge/dataplane/tables.py encoded; never
 * by the data plane. What a value may be is decided by check.c alone, which runs over the result:
 * every entry remembers the fragment it came from, so that a refusal can name it. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "snapshot/builder.h"

static int upstream_slot(struct builder *builder, struct item item, uint32_t slot,
                         struct item *by_slot)
{
    if (slot >= EDGE_UPSTREAM_SLOTS)
        return builder_refuse(builder, item, EDGE_ERR_LIMIT, "slot", "over the limit");
    if (by_slot[slot].head != NULL)
        return builder_refuse(builder, item, EDGE_ERR_INVALID, "slot", "given twice");
    by_slot[slot] = item;
    return EDGE_OK;
}

static int put_endpoints(struct builder *builder, struct item item,
                         struct edge_image_upstream *upstream)
{
    const struct edge_fragment_endpoints *fragment = (const void *)item.head;
    const void *array;
    struct edge_image_endpoint *copy;

    BUILDER_TRY(builder_array(builder, item, fragment->endpoints_offset, fragment->endpoint_count,
                              sizeof(*copy), "endpoints_offset", &array));
    copy = builder_append(builder, EDGE_SECTION_ENDPOINT, fragment->endpoint_count, item.number);
    if (copy == NULL)
        return builder_no_memory(builder);
    upstream->endpoint_count = fragment->endpoint_count;
    memcpy(copy, array, fragment->endpoint_count * sizeof(*copy));
    for (uint32_t i = 0; i < fragment->endpoint_count; i++)
        BUILDER_TRY(builder_move_text(builder, item, &copy[i].zone, "zone"));
    return EDGE_OK;
}

/* By slot, so that the same objects give the same bytes whatever the order of fragments was. */
static int put_upstreams(struct builder *builder, struct item *upstreams, struct item *endpoints,
                         uint32_t slots)
{
    const struct items *given = &builder->items[EDGE_FRAGMENT_UPSTREAM];

    for (uint32_t i = 0; i < given->count; i++)
        BUILDER_TRY(upstream_slot(
            builder, given->at[i],
            ((const struct edge_fragment_upstream *)given->at[i].head)->upstream.slot, upstreams));
    given = &builder->items[EDGE_FRAGMENT_ENDPOINTS];
    for (uint32_t i = 0; i < given->count; i++) {
        uint32_t slot = ((const struct edge_fragment_endpoints *)given->at[i].head)->upstream_slot;
        BUILDER_TRY(upstream_slot(builder, given->at[i], slot, endpoints));
        if (upstreams[slot].head == NULL)
            return builder_refuse(builder, given->at[i], EDGE_ERR_REFERENCE, "upstream_slot",
                                  "no such upstream");
    }
    for (uint32_t slot = 0; slot < slots; slot++) {
        struct edge_image_upstream copy, *entry;
        if (upstreams[slot].head == NULL)
            continue;
        copy = ((const struct edge_fragment_upstream *)upstreams[slot].head)->upstream;
        if (copy.first_endpoint != 0 || copy.endpoint_count != 0)
            return builder_refuse(builder, upstreams[slot], EDGE_ERR_INVALID, "endpoint_count",
                                  "must be zero");
        copy.first_endpoint = builder->section[EDGE_SECTION_ENDPOINT].count;
        BUILDER_TRY(builder_move_text(builder, upstreams[slot], &copy.name, "name"));
        if (endpoints[slot].head != NULL)
            BUILDER_TRY(put_endpoints(builder, endpoints[slot], &copy));
        entry = builder_append(builder, EDGE_SECTION_UPSTREAM, 1, upstreams[slot].number);
        if (entry == NULL)
            return builder_no_memory(builder);
        *entry = copy;
    }
    return EDGE_OK;
}

/* Above all slots that are given, as far as there may be any. */
static uint32_t slots_needed(const struct builder *builder)
{
    const struct items *upstreams = &builder->items[EDGE_FRAGMENT_UPSTREAM];
    const struct items *endpoints = &builder->items[EDGE_FRAGMENT_ENDPOINTS];
    uint32_t needed = 0;

    for (uint32_t i = 0; i < upstreams->count; i++) {
        uint32_t slot =
            ((const struct edge_fragment_upstream *)upstreams->at[i].head)->upstream.slot;
        if (slot < EDGE_UPSTREAM_SLOTS && slot >= needed)
            needed = slot + 1;
    }
    for (uint32_t i = 0; i < endpoints->count; i++) {
        uint32_t slot =
            ((const struct edge_fragment_endpoints *)endpoints->at[i].head)->upstream_slot;
        if (slot < EDGE_UPSTREAM_SLOTS && slot >= needed)
            needed = slot + 1;
    }
    return needed;
}

static int put_all_upstreams(struct builder *builder)
{
    const uint32_t needed = slots_needed(builder);
    struct item *slots = calloc(2 * (size_t)needed + 1, sizeof(*slots));
    int rc = slots == NULL ? builder_no_memory(builder)
                           : put_upstreams(builder, slots, slots + needed, needed);

    free(slots);
    return rc;
}

static uint32_t domain_number(const struct edge_fragment *head)
{
    switch (head->kind) {
    case EDGE_FRAGMENT_LISTENER:
        return ((const struct edge_fragment_listener *)head)->domain;
    case EDGE_FRAGMENT_ROUTE:
        return ((const struct edge_fragment_route *)head)->domain;
    default:
        return ((const struct edge_fragment_certificate *)head)->domain;
    }
}

/* Every domain gets a host table and a server name table, so both have its index. */
static int find_domains(struct builder *builder)
{
    static const uint32_t kinds[] = {EDGE_FRAGMENT_LISTENER, EDGE_FRAGMENT_ROUTE,
                                     EDGE_FRAGMENT_CERTIFICATE};

    for (uint32_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        const struct items *given = &builder->items[kinds[k]];
        for (uint32_t i = 0; i < given->count; i++) {
            struct domain *domain;
            BUILDER_TRY(
                builder_domain(builder, given->at[i], domain_number(given->at[i].head), &domain));
        }
    }
    return EDGE_OK;
}

static int put_listeners(struct builder *builder)
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

static int assemble(struct builder *builder, struct edge_image *out)
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
    out->bytes = aligned_alloc(64, at);
    if (out->bytes == NULL)
        return builder_no_memory(builder);
    out->size = at;
    memset(out->bytes, 0, at);
    memcpy(out->bytes, &header, sizeof(header));
    for (uint32_t i = 1; i < EDGE_SECTION_COUNT; i++)
        if (builder->section[i].count > 0)
            memcpy(out->bytes + header.section[i].offset, builder->section[i].bytes,
                   (size_t)builder->section[i].count * image_entry_bytes(i));
    builder_order_paths(out->bytes);
    edge_image_seal(out->bytes, at);
    return EDGE_OK;
}

/* The check speaks of entries; the caller knows fragments. */
static int check_result(struct builder *builder, const struct edge_image *image)
{
    struct edge_error found = {0};
    int rc = edge_image_check(image->bytes, image->size, &found);

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

static int build(struct builder *builder, const uint8_t *fragments, size_t bytes,
                 struct edge_image *out)
{
    BUILDER_TRY(builder_collect(builder, fragments, bytes));
    BUILDER_TRY(find_domains(builder));
    BUILDER_TRY(put_all_upstreams(builder));
    if (builder->options->kind == EDGE_IMAGE_FULL) {
        BUILDER_TRY(builder_put_server_names(builder));
        BUILDER_TRY(builder_put_hosts(builder));
        BUILDER_TRY(put_listeners(builder));
    }
    BUILDER_TRY(assemble(builder, out));
    return check_result(builder, out);
}

int edge_image_build(const uint8_t *fragments, size_t bytes,
                     const struct edge_build_options *options, struct edge_image *out,
                     struct edge_error *err)
{
    struct builder builder = {.options = options, .err = err};
    int rc;

    *out = (struct edge_image){0};
    if ((uintptr_t)fragments % 8 != 0)
        return error_set(err, EDGE_ERR_INVALID, "fragments must start at a multiple of 8");
    if (bytes > 2 * (size_t)EDGE_IMAGE_BYTES_MAX)
        return error_set(err, EDGE_ERR_LIMIT, "%zu bytes of fragments", bytes);
    if ((options->kind != EDGE_IMAGE_FULL && options->kind != EDGE_IMAGE_PATCH) ||
        options->reserved != 0)
        return error_set(err, EDGE_ERR_INVALID, "unknown kind of image");
    rc = build(&builder, fragments, bytes, out);
    for (uint32_t i = 0; i < sizeof(builder.items) / sizeof(builder.items[0]); i++)
        free(builder.items[i].at);
    for (uint32_t i = 0; i < EDGE_SECTION_COUNT; i++) {
        free(builder.section[i].bytes);
        free(builder.section[i].origin);
        free(builder.share[i].slots);
    }
    free(builder.interned);
    free(builder.intern_length);
    if (rc != EDGE_OK)
        edge_image_free(out);
    return rc;
}

void edge_image_free(struct edge_image *image)
{
    free(image->bytes);
    *image = (struct edge_image){0};
}
