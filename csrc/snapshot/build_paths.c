/* The part of the image builder that lays out path indexes, one for each list of paths.
 *
 * Called by build_hosts.c for a host whose routes stand in the ROUTE section; hosts with the same
 * paths in the same order share one index. path_index.h says how it is read. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "snapshot/builder.h"
#include "snapshot/path_index.h"

struct list {
    uint32_t first;
    uint32_t count;
    uint32_t flags;
};

/* A key while its routes are gathered; of a prefix by text only `exact` is used. */
struct key {
    struct slice text; /* in the image's text section, whose place may not change meanwhile */
    uint32_t offset;
    uint32_t hash;
    uint32_t exact, prefix;           /* as in struct edge_image_path_entry */
    uint32_t exact_last, prefix_last; /* number of the last route in each chain */
};

static uint32_t signature(const struct builder *builder, const struct list *list)
{
    uint64_t state = HASH_ODD_A ^ list->count ^ (uint64_t)list->flags << 32;

    for (uint32_t i = 0; i < list->count; i++) {
        const struct edge_image_route *route = builder_route(builder, list->first + i);
        state = hash_word(state, (uint64_t)route->path.offset << 32 | route->path.length);
        state = hash_word(state, (uint64_t)route->path_type << 1 | (route->condition != 0));
    }
    return path_hash_end(state);
}

static bool same_list(const struct builder *builder, uint32_t index, const void *wanted)
{
    const struct list *list = wanted;
    const struct edge_image_path_index *known =
        (const struct edge_image_path_index *)(const void *)builder
            ->section[EDGE_SECTION_PATH_INDEX]
            .bytes +
        index;

    if (known->route_count != list->count || known->flags != list->flags)
        return false;
    for (uint32_t i = 0; i < list->count; i++) {
        const struct edge_image_route *a = builder_route(builder, known->first_route + i);
        const struct edge_image_route *b = builder_route(builder, list->first + i);
        if (a->path_type != b->path_type || a->path.offset != b->path.offset ||
            a->path.length != b->path.length || (a->condition != 0) != (b->condition != 0))
            return false;
    }
    return true;
}

static struct key *find_key(struct key *keys, uint32_t mask, struct slice text, uint32_t hash)
{
    uint32_t at = hash & mask;

    while (keys[at].exact != 0 || keys[at].prefix != 0) {
        if (keys[at].hash == hash && slice_equal(keys[at].text, text))
            break;
        at = (at + 1) & mask;
    }
    return &keys[at];
}

static void chain(struct builder *builder, const struct list *list, uint32_t number,
                  uint32_t *first, uint32_t *last)
{
    struct edge_image_route *routes = (void *)builder->section[EDGE_SECTION_ROUTE].bytes;

    if (*first == 0)
        *first = (number + 1) |
                 (routes[list->first + number].condition != 0 ? EDGE_PATH_CONDITIONAL : 0);
    else
        routes[list->first + *last].next = number + 1;
    *last = number;
}

static int put_other(struct builder *builder, uint32_t number, uint32_t origin)
{
    struct edge_image_path_other *other =
        builder_append(builder, EDGE_SECTION_PATH_OTHER, 1, origin);

    if (other == NULL)
        return builder_no_memory(builder);
    other->route = number;
    return EDGE_OK;
}

/* Keys of a list in a table that is never full. */
struct keys {
    struct key *at;
    uint32_t mask;
    uint32_t count;
};

/* keys[0]: by elements, keys[1]: by text. */
static int gather(struct builder *builder, const struct list *list, uint32_t origin,
                  struct keys keys[2], struct edge_image_path_index *index)
{
    for (uint32_t i = 0; i < list->count; i++) {
        const struct edge_image_route *route = builder_route(builder, list->first + i);
        struct slice path = builder_stored(builder, route->path);
        struct slice text = path_key(route->path_type, path);
        const bool by_text = route->path_type == EDGE_PATH_STRING_PREFIX;
        struct key *key;
        uint32_t hash;
        if (path_is_other(route->path_type, path)) {
            BUILDER_TRY(put_other(builder, i, origin));
            index->other_count++;
            continue;
        }
        hash = by_text ? edge_text_hash(text.at, text.length) : path_key_hash(text);
        key = find_key(keys[by_text].at, keys[by_text].mask, text, hash);
        if (key->exact == 0 && key->prefix == 0) {
            key->text = text;
            key->offset = route->path.offset;
            key->hash = hash;
            keys[by_text].count++;
        }
        if (by_text) {
            chain(builder, list, i, &key->exact, &key->exact_last);
            index->text_lengths[text.length / 64] |= UINT64_C(1) << text.length % 64;
        } else if (route->path_type == EDGE_PATH_EXACT) {
            chain(builder, list, i, &key->exact, &key->exact_last);
            index->exact_counts |= UINT64_C(1) << path_key_elements(text);
        } else {
            chain(builder, list, i, &key->prefix, &key->prefix_last);
            index->prefix_counts |= UINT64_C(1) << path_key_elements(text);
        }
    }
    return EDGE_OK;
}

static int put_entries(struct builder *builder, const struct keys *keys, uint32_t origin,
                       uint32_t *out)
{
    const uint32_t buckets = builder_buckets(keys->count), mask = buckets - 1;
    struct edge_image_path_entry *entries =
        builder_append(builder, EDGE_SECTION_PATH_ENTRY, buckets, origin);

    if (entries == NULL)
        return builder_no_memory(builder);
    *out = buckets;
    for (uint32_t i = 0; i <= keys->mask; i++) {
        const struct key *key = &keys->at[i];
        uint32_t at = key->hash & mask;
        if (key->exact == 0 && key->prefix == 0)
            continue;
        while (entries[at].exact != 0 || entries[at].prefix != 0)
            at = (at + 1) & mask;
        entries[at] = (struct edge_image_path_entry){
            .tag = (uint16_t)(key->hash >> 16),
            .key_length = (uint16_t)key->text.length,
            .key_offset = key->offset,
            .exact = key->exact,
            .prefix = key->prefix,
        };
    }
    return EDGE_OK;
}

static int put_index(struct builder *builder, const struct list *list, uint32_t origin)
{
    struct edge_image_path_index index = {
        .first_other = builder->section[EDGE_SECTION_PATH_OTHER].count,
        .route_count = list->count,
        .flags = list->flags,
        .first_route = list->first,
    };
    const uint32_t buckets = builder_buckets(list->count);
    struct key *room = calloc(2 * (size_t)buckets, sizeof(*room));
    struct keys keys[2] = {{room, buckets - 1, 0}, {room + buckets, buckets - 1, 0}};
    struct edge_image_path_index *entry;
    uint32_t taken = 0;
    int rc;

    if (room == NULL)
        return builder_no_memory(builder);
    index.first_entry = builder->section[EDGE_SECTION_PATH_ENTRY].count;
    rc = gather(builder, list, origin, keys, &index);
    if (rc == EDGE_OK)
        rc = put_entries(builder, &keys[0], origin, &taken);
    index.mask = taken - 1;
    if (rc == EDGE_OK && keys[1].count > 0)
        rc = put_entries(builder, &keys[1], origin, &index.text_buckets);
    free(room);
    BUILDER_TRY(rc);
    entry = builder_append(builder, EDGE_SECTION_PATH_INDEX, 1, origin);
    if (entry == NULL)
        return builder_no_memory(builder);
    *entry = index;
    return EDGE_OK;
}

int builder_put_paths(struct builder *builder, uint32_t first, uint32_t count, uint32_t flags,
                      uint32_t origin, uint32_t *index)
{
    const struct list list = {first, count, flags};
    const struct edge_image_path_index *indexes;
    struct edge_image_route *routes;
    uint32_t *slot;

    BUILDER_TRY(builder_share(builder, EDGE_SECTION_PATH_INDEX, signature(builder, &list),
                              same_list, &list, &slot));
    *index = *slot - 1;
    if (*slot == 0) {
        *slot = builder->section[EDGE_SECTION_PATH_INDEX].count + 1;
        *index = *slot - 1;
        return put_index(builder, &list, origin);
    }
    indexes = (void *)builder->section[EDGE_SECTION_PATH_INDEX].bytes;
    routes = (void *)builder->section[EDGE_SECTION_ROUTE].bytes;
    for (uint32_t i = 0; i < count; i++)
        routes[first + i].next = routes[indexes[*index].first_route + i].next;
    return EDGE_OK;
}

void builder_order_paths(uint8_t *bytes)
{
    struct edge_image_path_index *indexes;
    struct image image;

    image_open(&image, bytes);
    indexes = (void *)(bytes + image.header->section[EDGE_SECTION_PATH_INDEX].offset);
    for (uint32_t i = 0; i < image.count[EDGE_SECTION_PATH_INDEX]; i++)
        if (path_index_ordered(&image, &indexes[i], indexes[i].first_route))
            indexes[i].flags |= EDGE_PATHS_ORDERED;
}
