/* How a path finds its routes: keys, their hashes, and the lookup in a path index.
 *
 * Used by build_paths.c (lays indexes out), check_paths.c (believes none of it) and match (a
 * request's path is hashed once, element by element). See struct edge_image_path_index. */
#ifndef EDGE_SNAPSHOT_PATH_INDEX_H
#define EDGE_SNAPSHOT_PATH_INDEX_H

#include "base/hash.h"
#include "snapshot/image.h"

#define PATH_HASH_START HASH_ODD_A

/* An element without its slash. The last word says how long it was, so elements cannot run into
 * each other; it is there also when it is empty. */
static inline uint64_t path_hash_element(uint64_t state, const char *at, size_t length)
{
    for (; length >= 8; at += 8, length -= 8)
        state = hash_word(state, hash_load(at));
    return hash_word(state, hash_load_part(at, length) ^ (uint64_t)(length + 1) << 60);
}

static inline uint32_t path_hash_end(uint64_t state)
{
    return (uint32_t)(hash_mix(state) >> 32);
}

/* "/foo/" is the same prefix as "/foo": the one slash at its end is not an element. */
static inline struct slice path_key(uint32_t type, struct slice path)
{
    if (type == EDGE_PATH_PREFIX && path.length > 0 && path.at[path.length - 1] == '/')
        path.length--;
    return path;
}

/* Elements of a key: "" has none. */
uint32_t path_key_elements(struct slice key);
uint32_t path_key_hash(struct slice key);

/* Is the route looked at one by one? An expression, or too deep for the buckets. */
bool path_is_other(uint32_t type, struct slice path);

/* The number of a bucket's value, which is not 0. */
static inline uint32_t path_value_number(uint32_t value)
{
    return (value & ~EDGE_PATH_CONDITIONAL) - 1;
}

static inline bool path_text_equal(const char *a, const char *b, size_t length)
{
    const char *end = a + length;

    if (length < 8) /* the parts cover every byte */
        return hash_load_part(a, length) == hash_load_part(b, length);
    for (; end - a > 8; a += 8, b += 8)
        if (hash_load(a) != hash_load(b))
            return false;
    return hash_load(end - 8) == hash_load(b + (end - a) - 8);
}

/* The bucket of a key in a table, NULL: none. The check made sure that there is an empty one to
 * stop at. */
static inline const struct edge_image_path_entry *
path_find(const struct image *image, uint32_t first, uint32_t mask, struct slice key, uint32_t hash)
{
    const struct edge_image_path_entry *entries = image->path_entries + first;

    for (uint32_t i = hash;; i++) {
        const struct edge_image_path_entry *entry = &entries[i & mask];
        if ((entry->exact | entry->prefix) == 0)
            return NULL;
        if (entry->tag == (uint16_t)(hash >> 16) && entry->key_length == key.length &&
            path_text_equal(image->text + entry->key_offset, key.at, key.length))
            return entry;
    }
}

static inline const struct edge_image_path_entry *
path_index_find(const struct image *image, const struct edge_image_path_index *index,
                struct slice key, uint32_t hash)
{
    return path_find(image, index->first_entry, index->mask, key, hash);
}

/* The same among prefixes by text; there must be some. */
static inline const struct edge_image_path_entry *
path_index_find_text(const struct image *image, const struct edge_image_path_index *index,
                     struct slice key)
{
    return path_find(image, index->first_entry + index->mask + 1, index->text_buckets - 1, key,
                     edge_text_hash(key.at, key.length));
}

/* Whether EDGE_PATHS_ORDERED is true of a host with that index, whose chains were checked. */
bool path_index_ordered(const struct image *image, const struct edge_image_path_index *index,
                        uint32_t first_route);

#endif
