/* The part of the image builder that lays out path indexes, one for each list of paths.
 *
 * Called by build_hosts.c. Hosts with the same paths in the same order share one list, whose index
 * is made once and copied into each image. path_index.h says how it is read. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "snapshot/builder.h"
#include "snapshot/path_index.h"

/* An atom; followed by its paths. */
struct list_key {
    uint32_t count;
    uint32_t flags;
};

struct list_path {
    uint32_t text;
    uint32_t type;
    uint32_t conditional;
};

/* What is made of a list; followed by entries (key_offset: a text), chains and others. */
struct paths {
    struct edge_image_path_index index;
    uint32_t entries;
    uint32_t judged; /* index.flags tells whether it is ordered */
};

/* A key while its routes are gathered; of a prefix by text only `exact` is used. */
struct key {
    struct slice text;
    uint32_t id;
    uint32_t hash;
    uint32_t exact, prefix;           /* as in struct edge_image_path_entry */
    uint32_t exact_last, prefix_last; /* number of the last route in each chain */
};

/* Keys of a list in a table that is never full. */
struct keys {
    struct key *at;
    uint32_t mask;
    uint32_t count;
};

struct gathering {
    const struct edge_builder *builder;
    const struct list_path *list;
    struct keys keys[2]; /* by elements, by text */
    uint32_t *next;
    uint32_t *others;
    struct edge_image_path_index index;
};

static struct key *find_key(const struct keys *keys, struct slice text, uint32_t hash)
{
    uint32_t at = hash & keys->mask;

    while (keys->at[at].exact != 0 || keys->at[at].prefix != 0) {
        if (keys->at[at].hash == hash && slice_equal(keys->at[at].text, text))
            break;
        at = (at + 1) & keys->mask;
    }
    return &keys->at[at];
}

static void chain(struct gathering *it, uint32_t number, uint32_t *first, uint32_t *last)
{
    if (*first == 0)
        *first = (number + 1) | (it->list[number].conditional ? EDGE_PATH_CONDITIONAL : 0);
    else
        it->next[*last] = number + 1;
    *last = number;
}

static void gather(struct gathering *it, uint32_t number)
{
    const struct list_path *path = &it->list[number];
    const struct slice written = builder_kept(it->builder, path->text);
    const struct slice text = path_key(path->type, written);
    const bool by_text = path->type == EDGE_PATH_STRING_PREFIX;
    struct key *key;
    uint32_t hash;

    if (path_is_other(path->type, written)) {
        it->others[it->index.other_count++] = number;
        return;
    }
    hash = by_text ? edge_text_hash(text.at, text.length) : path_key_hash(text);
    key = find_key(&it->keys[by_text], text, hash);
    if (key->exact == 0 && key->prefix == 0) {
        key->text = text;
        key->id = path->text;
        key->hash = hash;
        it->keys[by_text].count++;
    }
    if (by_text) {
        chain(it, number, &key->exact, &key->exact_last);
        it->index.text_lengths[text.length / 64] |= UINT64_C(1) << text.length % 64;
    } else if (path->type == EDGE_PATH_EXACT) {
        chain(it, number, &key->exact, &key->exact_last);
        it->index.exact_counts |= UINT64_C(1) << path_key_elements(text);
    } else {
        chain(it, number, &key->prefix, &key->prefix_last);
        it->index.prefix_counts |= UINT64_C(1) << path_key_elements(text);
    }
}

static void put_entries(const struct keys *keys, struct edge_image_path_entry *entries,
                        uint32_t mask)
{
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
            .key_offset = key->id,
            .exact = key->exact,
            .prefix = key->prefix,
        };
    }
}

static struct edge_image_path_entry *entries_of(struct paths *paths)
{
    return (struct edge_image_path_entry *)(void *)(paths + 1);
}

static uint32_t *numbers_of(struct paths *paths)
{
    return (uint32_t *)(void *)(entries_of(paths) + paths->entries);
}

/* room: next and others, count of each. */
static struct paths *finish(const struct gathering *it, uint32_t count)
{
    const uint32_t by_elements = builder_buckets(it->keys[0].count);
    const uint32_t by_text = it->keys[1].count > 0 ? builder_buckets(it->keys[1].count) : 0;
    const uint32_t entries = by_elements + by_text, others = it->index.other_count;
    struct paths *paths =
        calloc(1, sizeof(*paths) + entries * sizeof(struct edge_image_path_entry) +
                      (count + (size_t)others) * sizeof(uint32_t));

    if (paths == NULL)
        return NULL;
    paths->index = it->index;
    paths->index.mask = by_elements - 1;
    paths->index.text_buckets = by_text;
    paths->entries = entries;
    put_entries(&it->keys[0], entries_of(paths), by_elements - 1);
    if (by_text > 0)
        put_entries(&it->keys[1], entries_of(paths) + by_elements, by_text - 1);
    memcpy(numbers_of(paths), it->next, count * sizeof(uint32_t));
    memcpy(numbers_of(paths) + count, it->others, others * sizeof(uint32_t));
    return paths;
}

static struct paths *make(const struct edge_builder *builder, const struct list_key *key,
                          const struct list_path *list)
{
    const uint32_t buckets = builder_buckets(key->count);
    struct key *room = calloc(2 * (size_t)buckets, sizeof(*room));
    uint32_t *numbers = calloc(2 * (size_t)key->count, sizeof(*numbers));
    struct gathering it = {
        .builder = builder,
        .list = list,
        .keys = {{room, buckets - 1, 0}, {room + buckets, buckets - 1, 0}},
        .next = numbers,
        .others = numbers + key->count,
        .index = {.route_count = key->count, .flags = key->flags},
    };
    struct paths *paths = NULL;

    if (room != NULL && numbers != NULL) {
        for (uint32_t i = 0; i < key->count; i++)
            gather(&it, i);
        paths = finish(&it, key->count);
    }
    free(room);
    free(numbers);
    return paths;
}

int builder_list_paths(struct edge_builder *builder, struct host *host)
{
    const struct list_key key = {host->count, host->flags};
    const size_t bytes = sizeof(key) + host->count * sizeof(struct list_path);
    uint8_t *whole = malloc(bytes);
    struct list_path *list = (struct list_path *)(void *)(whole + sizeof(key));
    bool fresh;

    if (whole == NULL)
        return builder_no_memory(builder);
    memcpy(whole, &key, sizeof(key));
    for (uint32_t i = 0; i < host->count; i++)
        list[i] = (struct list_path){host->routes[i]->path, host->routes[i]->entry.path_type,
                                     host->routes[i]->condition != ATOM_NONE};
    host->list = atoms_get(&builder->lists, whole, (uint32_t)bytes, &fresh);
    if (host->list != ATOM_NONE && fresh)
        builder->lists.at[host->list].extra = make(builder, &key, list);
    free(whole);
    if (host->list == ATOM_NONE || builder->lists.at[host->list].extra == NULL)
        return builder_no_memory(builder);
    return EDGE_OK;
}

void builder_release_list(struct edge_builder *builder, uint32_t list)
{
    if (list != ATOM_NONE && atoms_release(&builder->lists, list))
        atoms_remove(&builder->lists, list);
}

const uint32_t *builder_chains(const struct edge_builder *builder, uint32_t list)
{
    return numbers_of(builder->lists.at[list].extra);
}

int builder_lay_paths(struct edge_builder *builder, const struct host *host, uint32_t first,
                      uint32_t *index)
{
    struct paths *paths = builder->lists.at[host->list].extra;
    const uint32_t origin = host->routes[0]->number, others = paths->index.other_count;
    struct edge_image_path_index copy = paths->index, *entry;
    struct edge_image_path_entry *entries;
    struct edge_image_path_other *other;

    *index = builder->lists.place[host->list];
    if (*index != ATOM_NONE)
        return EDGE_OK;
    *index = builder->lists.place[host->list] = builder->section[EDGE_SECTION_PATH_INDEX].count;
    copy.first_route = first;
    copy.first_entry = builder->section[EDGE_SECTION_PATH_ENTRY].count;
    copy.first_other = builder->section[EDGE_SECTION_PATH_OTHER].count;
    entries = builder_append(builder, EDGE_SECTION_PATH_ENTRY, paths->entries, origin);
    other = builder_append(builder, EDGE_SECTION_PATH_OTHER, others, origin);
    entry = builder_append(builder, EDGE_SECTION_PATH_INDEX, 1, origin);
    if (entries == NULL || other == NULL || entry == NULL)
        return builder_no_memory(builder);
    memcpy(entries, entries_of(paths), paths->entries * sizeof(*entries));
    for (uint32_t i = 0; i < paths->entries; i++)
        if ((entries[i].exact | entries[i].prefix) != 0)
            entries[i].key_offset = builder->texts.place[entries[i].key_offset];
    for (uint32_t i = 0; i < others; i++)
        other[i].route = numbers_of(paths)[copy.route_count + i];
    *entry = copy;
    BUILDER_TRY(builder_room(builder, &builder->placed_lists, &builder->placed_room, *index + 1,
                             sizeof(*builder->placed_lists)));
    builder->placed_lists[*index] = host->list;
    return EDGE_OK;
}

void builder_order_paths(struct edge_builder *builder)
{
    uint8_t *bytes = builder->image.bytes;
    struct edge_image_path_index *indexes;
    struct image image;

    image_open(&image, bytes);
    indexes = (void *)(bytes + image.header->section[EDGE_SECTION_PATH_INDEX].offset);
    for (uint32_t i = 0; i < image.count[EDGE_SECTION_PATH_INDEX]; i++) {
        struct paths *paths = builder->lists.at[builder->placed_lists[i]].extra;
        if (!paths->judged && path_index_ordered(&image, &indexes[i], indexes[i].first_route))
            paths->index.flags |= EDGE_PATHS_ORDERED;
        paths->judged = 1;
        indexes[i].flags = paths->index.flags;
    }
}
