/* Where an image's sections start, how large their entries are, and its checksum.
 *
 * Called by build.c, check.c and view.c. image_open() believes the bytes: check first. */
#include "snapshot/image.h"

#include "base/hash.h"

static const uint32_t entry_bytes[EDGE_SECTION_COUNT] = {
    [EDGE_SECTION_LISTENER] = sizeof(struct edge_image_listener),
    [EDGE_SECTION_SNI_TABLE] = sizeof(struct edge_image_table),
    [EDGE_SECTION_SNI_ENTRY] = sizeof(struct edge_image_sni_entry),
    [EDGE_SECTION_HOST_TABLE] = sizeof(struct edge_image_table),
    [EDGE_SECTION_HOST_ENTRY] = sizeof(struct edge_image_host_entry),
    [EDGE_SECTION_ROUTE] = sizeof(struct edge_image_route),
    [EDGE_SECTION_FIELD_MATCH] = sizeof(struct edge_image_field_match),
    [EDGE_SECTION_FILTER] = sizeof(struct edge_image_filter),
    [EDGE_SECTION_REFERENCE] = sizeof(struct edge_image_reference),
    [EDGE_SECTION_UPSTREAM] = sizeof(struct edge_image_upstream),
    [EDGE_SECTION_ENDPOINT] = sizeof(struct edge_image_endpoint),
    [EDGE_SECTION_TEMPLATE] = sizeof(struct edge_image_template),
    [EDGE_SECTION_CERTIFICATE] = sizeof(struct edge_image_certificate),
    [EDGE_SECTION_PREFIX] = sizeof(struct edge_image_prefix),
    [EDGE_SECTION_TEXT] = 1,
    [EDGE_SECTION_PATH_INDEX] = sizeof(struct edge_image_path_index),
    [EDGE_SECTION_PATH_ENTRY] = sizeof(struct edge_image_path_entry),
    [EDGE_SECTION_PATH_OTHER] = sizeof(struct edge_image_path_other),
    [EDGE_SECTION_CONDITION] = sizeof(struct edge_image_condition),
    [EDGE_SECTION_ACTION] = sizeof(struct edge_image_action),
    [EDGE_SECTION_OBJECT] = sizeof(struct edge_image_object),
    [EDGE_SECTION_PATTERN] = sizeof(struct edge_image_pattern),
};

_Static_assert(sizeof(struct edge_image_header) == 488, "the header is part of the format");
_Static_assert(sizeof(struct edge_image_listener) == 68, "a listener is part of the format");
_Static_assert(sizeof(struct edge_image_route) == 64, "a route is one cache line");
_Static_assert(sizeof(struct edge_image_host_entry) == 16, "four to a cache line");
_Static_assert(sizeof(struct edge_image_path_entry) == 16, "four to a cache line");
_Static_assert(sizeof(struct edge_image_upstream) == 48, "an upstream is part of the format");

uint32_t image_entry_bytes(uint32_t section)
{
    return section < EDGE_SECTION_COUNT ? entry_bytes[section] : 0;
}

static const void *section_at(const struct image *image, uint32_t section)
{
    return (const uint8_t *)image->header + image->header->section[section].offset;
}

void image_open(struct image *image, const uint8_t *bytes)
{
    image->header = (const struct edge_image_header *)(const void *)bytes;
    for (uint32_t i = 0; i < EDGE_SECTION_COUNT; i++)
        image->count[i] = image->header->section[i].count;
    image->listeners = section_at(image, EDGE_SECTION_LISTENER);
    image->sni_tables = section_at(image, EDGE_SECTION_SNI_TABLE);
    image->sni_entries = section_at(image, EDGE_SECTION_SNI_ENTRY);
    image->host_tables = section_at(image, EDGE_SECTION_HOST_TABLE);
    image->host_entries = section_at(image, EDGE_SECTION_HOST_ENTRY);
    image->routes = section_at(image, EDGE_SECTION_ROUTE);
    image->filters = section_at(image, EDGE_SECTION_FILTER);
    image->references = section_at(image, EDGE_SECTION_REFERENCE);
    image->upstreams = section_at(image, EDGE_SECTION_UPSTREAM);
    image->endpoints = section_at(image, EDGE_SECTION_ENDPOINT);
    image->certificates = section_at(image, EDGE_SECTION_CERTIFICATE);
    image->prefixes = section_at(image, EDGE_SECTION_PREFIX);
    image->text = section_at(image, EDGE_SECTION_TEXT);
    image->path_indexes = section_at(image, EDGE_SECTION_PATH_INDEX);
    image->path_entries = section_at(image, EDGE_SECTION_PATH_ENTRY);
    image->path_others = section_at(image, EDGE_SECTION_PATH_OTHER);
    image->conditions = section_at(image, EDGE_SECTION_CONDITION);
    image->actions = section_at(image, EDGE_SECTION_ACTION);
    image->objects = section_at(image, EDGE_SECTION_OBJECT);
    image->patterns = section_at(image, EDGE_SECTION_PATTERN);
    image->field_matches = section_at(image, EDGE_SECTION_FIELD_MATCH);
    image->compiled = NULL;
}

/* Four independent lanes, so that the multiplier is kept busy: 256 MiB must not take a second.
 * Each step is one to one in its word, so a single changed word always changes the result. */
uint64_t image_checksum(const uint8_t *bytes, size_t size)
{
    const size_t skip = offsetof(struct edge_image_header, checksum);
    uint64_t lane[4] = {HASH_ODD_A, HASH_ODD_B, ~HASH_ODD_A, ~HASH_ODD_B};
    uint64_t result = size;
    size_t at = 0;

    for (; at + 32 <= size; at += 32)
        for (size_t i = 0; i < 4; i++)
            lane[i] = hash_word(lane[i], at + 8 * i == skip ? 0 : hash_load(bytes + at + 8 * i));
    for (size_t i = 0; at + 8 <= size; at += 8, i++)
        lane[i] = hash_word(lane[i], at == skip ? 0 : hash_load(bytes + at));
    for (size_t i = 0; i < 4; i++)
        result = hash_mix(result ^ lane[i]) + i;
    return result;
}

void edge_image_seal(uint8_t *bytes, size_t size)
{
    uint64_t checksum;

    if (size < sizeof(struct edge_image_header))
        return;
    checksum = image_checksum(bytes, size);
    memcpy(bytes + offsetof(struct edge_image_header, checksum), &checksum, sizeof(checksum));
}
