/* How a path finds its routes: keys, their hashes, and the lookup in a path index.
 *
 * Used by build_paths.c (lays indexes out), check_paths.c (believes none of it) and match (a
 * request's path is hashed once, element by element). See struct edge_image_path_index. */
#ifndef EDGE_SNAPSHOT_PATH_INDEX_H
#define EDGE_SNAPSHOT_PATH_INDEX_H

#include "base/hash.h"
#include "snapshot/image.h"

#define PATH_HASH_START HASH_ODD_A

/* Keeps the bytes of a word before its first slash; shape: how many there are, `length` if none. */
static inline size_t path_cut_slash(uint64_t *word, size_t length)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), other = *word ^ ones * '/';
    const uint64_t slash = (other - ones) & ~other & ones * 0x80; /* right up to the first one */

    if (slash == 0)
        return length;
    *word &= (slash ^ (slash - 1)) >> 8;
    return (size_t)__builtin_ctzll(slash) >> 3;
}

/* Takes in the element that begins at `at`, behind its slash, and returns where it ends: at the
 * next slash, or at `end`. Its last word says how long it was, so elements cannot run into each
 * other; it is there also when it is empty. */
static inline const char *path_hash_element(uint64_t *state, const char *at, const char *end)
{
    uint64_t word;
    size_t length;

    for (; end - at >= 8; at += 8) {
        word = hash_load(at);
        length = path_cut_slash(&word, 8);
        if (length < 8)
            goto last;
        *state = hash_pair(*state, word, 0);
    }
    word = hash_load_part(at, (size_t)(end - at));
    length = path_cut_slash(&word, (size_t)(end - at));
last:
    *state = hash_pair(*state, word ^ (uint64_t)(length + 1) << 60, 0);
    return at + length;
}

static inline uint32_t path_hash_end(uint64_t state)
{
    return hash_end(state);
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

    if (length < 8)
        return hash_load_part(a, length) == hash_load_part(b, length);
    for (; end - a > 16; a += 16, b += 16)
        if (((hash_load(a) ^ hash_load(b)) | (hash_load(a + 8) ^ hash_load(b + 8))) != 0)
            return false;
    if (end - a > 8 && hash_load(a) != hash_load(b))
        return false;
    return hash_load(end - 8) == hash_load(b + (end - a) - 8);
}

/* Its first route, which is mostly the one that is taken, of a host whose routes begin there. */
static inline const struct edge_image_route *
path_entry_route(const struct image *image, const struct edge_image_path_entry *entry,
                 uint32_t first_route)
{
    const uint32_t value = entry->exact != 0 ? entry->exact : entry->prefix;
    return &image->routes[first_route + path_value_number(value)];
}

/* The bucket of a key in a table, NULL: none. The check made sure that there is an empty one to
 * stop at. first_route: of the host, to ask for the memory of the route while the key is read. */
static inline const struct edge_image_path_entry *path_find(const struct image *image,
                                                            uint32_t first_route, uint32_t first,
                                                            uint32_t mask, struct slice key,
                                                            uint32_t hash)
{
    const struct edge_image_path_entry *entries = image->path_entries + first;
    const uint32_t wanted = hash >> 16 | (uint32_t)key.length << 16;

    for (uint32_t i = hash;; i++) {
        const struct edge_image_path_entry *entry = &entries[i & mask];
        uint32_t word; /* tag and key_length at once */
        memcpy(&word, entry, sizeof(word));
        if (word == wanted && entry->key_length == key.length) {
            __builtin_prefetch(path_entry_route(image, entry, first_route));
            if (path_text_equal(image->text + entry->key_offset, key.at, key.length))
                return (entry->exact | entry->prefix) != 0 ? entry : NULL;
        }
        if ((entry->exact | entry->prefix) == 0)
            return NULL;
    }
}

static inline const struct edge_image_path_entry *
path_index_find(const struct image *image, uint32_t first_route,
                const struct edge_image_path_index *index, struct slice key, uint32_t hash)
{
    return path_find(image, first_route, index->first_entry, index->mask, key, hash);
}

/* The same among prefixes by text; there must be some. */
static inline const struct edge_image_path_entry *
path_index_find_text(const struct image *image, uint32_t first_route,
                     const struct edge_image_path_index *index, struct slice key)
{
    return path_find(image, first_route, index->first_entry + index->mask + 1,
                     index->text_buckets - 1, key, edge_text_hash(key.at, key.length));
}

/* Whether EDGE_PATHS_ORDERED is true of a host with that index, whose chains were checked. */
bool path_index_ordered(const struct image *image, const struct edge_image_path_index *index,
                        uint32_t first_route);

#endif
