/* Keys of paths, and whether a longer key always wins: see path_index.h.
 *
 * Called by build_paths.c and check_paths.c; match uses the inline part alone. */
#include "snapshot/path_index.h"

uint32_t path_key_elements(struct slice key)
{
    uint32_t count = 0;

    for (size_t i = 0; i < key.length; i++)
        count += key.at[i] == '/';
    return count;
}

uint32_t path_key_hash(struct slice key)
{
    const char *at = key.at, *end = key.at + key.length;
    uint64_t state = PATH_HASH_START;

    while (at < end) /* at a slash */
        at = path_hash_element(&state, at + 1, end);
    return path_hash_end(state);
}

bool path_is_other(uint32_t type, struct slice path)
{
    if (type == EDGE_PATH_STRING_PREFIX)
        return path.length > EDGE_PATH_TEXT_MAX;
    return type == EDGE_PATH_REGEX ||
           path_key_elements(path_key(type, path)) > EDGE_PATH_ELEMENTS_MAX;
}

static uint32_t last_of(const struct image *image, uint32_t value, uint32_t first_route)
{
    uint32_t number = path_value_number(value), next;

    while ((next = image->routes[first_route + number].next) != 0)
        number = next - 1;
    return number;
}

/* The longest prefix in the index that is shorter than the key, NULL: none. */
static const struct edge_image_path_entry *shorter_prefix(const struct image *image,
                                                          uint32_t first_route,
                                                          const struct edge_image_path_index *index,
                                                          struct slice key)
{
    uint32_t elements = path_key_elements(key);

    while (elements > 0) {
        const struct edge_image_path_entry *entry;
        while (key.at[--key.length] != '/')
            ;
        if ((index->prefix_counts >> --elements & 1) == 0)
            continue;
        entry = path_index_find(image, first_route, index, key, path_key_hash(key));
        if (entry != NULL && entry->prefix != 0)
            return entry;
    }
    return NULL;
}

bool path_index_ordered(const struct image *image, const struct edge_image_path_index *index,
                        uint32_t first_route)
{
    for (uint32_t i = 0; i <= index->mask; i++) {
        const struct edge_image_path_entry *it = &image->path_entries[index->first_entry + i];
        const struct edge_image_path_entry *shorter;
        uint32_t last;
        if ((it->exact | it->prefix) == 0)
            continue;
        if (it->exact != 0 && it->prefix != 0 &&
            last_of(image, it->exact, first_route) > path_value_number(it->prefix))
            return false;
        last = last_of(image, it->prefix != 0 ? it->prefix : it->exact, first_route);
        shorter = shorter_prefix(image, first_route, index,
                                 (struct slice){image->text + it->key_offset, it->key_length});
        if (shorter != NULL && last > path_value_number(shorter->prefix))
            return false;
    }
    return true;
}
