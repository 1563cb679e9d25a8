/* Lookups in a path index: see paths.h and struct edge_image_path_index.
 *
 * The path is walked once, from the left, and hashed by elements; where a prefix of so many
 * elements exists, its hash is noted. Then the noted places are looked up, the longest first. */
#include "match/paths.h"

#include "match/fields.h"
#include "match/path.h"
#include "match/patterns.h"
#include "snapshot/path_index.h"

#define NONE UINT32_MAX

/* A prefix of the request's path that may be a key. */
struct place {
    uint64_t state; /* path_hash_end() of it is its hash */
    size_t length;
};

/* Fills places, the shortest first. *whole: the last one is the whole path. */
static uint32_t walk(const struct edge_image_path_index *index, struct slice path,
                     struct place places[EDGE_PATH_ELEMENTS_MAX + 1], bool *whole)
{
    uint64_t prefixes = index->prefix_counts, counts = prefixes | index->exact_counts;
    const char *at = path.at, *end = path.at + path.length;
    uint64_t state = PATH_HASH_START;
    uint32_t count = 0;

    *whole = false;
    if (prefixes & 1)
        places[count++] = (struct place){state, 0};
    while ((counts >>= 1) != 0) {
        prefixes >>= 1;
        at = path_hash_element(&state, at + 1, end);
        *whole = at == end && (counts & 1);
        if (*whole || (prefixes & 1))
            places[count++] = (struct place){state, (size_t)(at - path.at)};
        if (at == end)
            break;
    }
    return count;
}

static bool holds(const struct image *image, const struct edge_image_route *route,
                  const struct match_request *request)
{
    return route->condition == 0 || fields_verdict(image, &image->conditions[route->condition - 1],
                                                   request, NULL) == EDGE_VERDICT_WON;
}

/* Of the routes behind a number, before number `best`, the first that takes the request. */
static uint32_t pick_conditional(const struct image *image, uint32_t first_route, uint32_t number,
                                 uint32_t best, const struct match_request *request)
{
    do {
        const struct edge_image_route *route = &image->routes[first_route + number];
        if (holds(image, route, request))
            return number;
        number = route->next - 1; /* 0 - 1 is NONE */
    } while (number < best);
    return NONE;
}

/* The first route of a chain, before number `best`, that takes the request; NONE: none. */
static inline uint32_t pick(const struct image *image, uint32_t first_route, uint32_t value,
                            uint32_t best, const struct match_request *request)
{
    uint32_t number = path_value_number(value);

    if (value == 0 || number >= best)
        return NONE;
    if ((value & EDGE_PATH_CONDITIONAL) == 0)
        return number;
    return pick_conditional(image, first_route, number, best, request);
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Prefixes by text, the longest first; best: what was found otherwise. */
static uint32_t match_texts(const struct image *image, const struct edge_image_host_entry *host,
                            const struct edge_image_path_index *index, uint32_t best,
                            const struct match_request *request)
{
    for (int word = 1; word >= 0; word--) {
        uint64_t lengths = index->text_lengths[word];
        while (lengths != 0) {
            const uint32_t bit = 63 - (uint32_t)__builtin_clzll(lengths);
            const struct slice key = {request->path.at, 64 * (uint32_t)word + bit};
            const struct edge_image_path_entry *entry;
            lengths ^= UINT64_C(1) << bit;
            if (key.length > request->path.length)
                continue;
            entry = path_index_find_text(image, host->first_route, index, key);
            if (entry != NULL)
                best = least(best, pick(image, host->first_route, entry->exact, best, request));
        }
    }
    return best;
}

/* Expressions and what is too deep, up to the best that was found. */
static uint32_t match_others(const struct image *image, const struct edge_image_host_entry *host,
                             const struct edge_image_path_index *index, uint32_t best,
                             const struct match_request *request)
{
    for (uint32_t i = 0; i < index->other_count; i++) {
        uint32_t number = image->path_others[index->first_other + i].route;
        if (number >= best)
            return best;
        if (paths_verdict(image, &image->routes[host->first_route + number], request, NULL) ==
            EDGE_VERDICT_SHADOWED)
            return number;
    }
    return best;
}

int32_t paths_match(const struct image *image, const struct edge_image_host_entry *host,
                    const struct match_request *request)
{
    const struct edge_image_path_index *index = &image->path_indexes[host->path_index];
    const bool ordered = index->flags & EDGE_PATHS_ORDERED;
    struct place places[EDGE_PATH_ELEMENTS_MAX + 1];
    uint32_t best = NONE, count;
    bool whole;

    if (request->path.length == 0 || request->path.at[0] != '/')
        return -1;
    count = walk(index, request->path, places, &whole);
    while (count > 0 && (best == NONE || !ordered)) {
        const struct place *place = &places[--count];
        const struct edge_image_path_entry *entry = path_index_find(
            image, host->first_route, index, (struct slice){request->path.at, place->length},
            path_hash_end(place->state));
        if (entry != NULL && whole)
            best = least(best, pick(image, host->first_route, entry->exact, best, request));
        if (entry != NULL && (best == NONE || !ordered))
            best = least(best, pick(image, host->first_route, entry->prefix, best, request));
        whole = false;
    }
    if (index->text_buckets > 0)
        best = match_texts(image, host, index, best, request);
    if (index->other_count > 0)
        best = match_others(image, host, index, best, request);
    return best == NONE ? -1 : (int32_t)(host->first_route + best);
}

int32_t paths_match_root(const struct image *image, const struct edge_image_host_entry *host,
                         const struct match_request *request)
{
    const struct edge_image_path_index *index = &image->path_indexes[host->path_index];
    const struct slice root = {request->path.at, 0};
    const struct edge_image_path_entry *entry;
    uint32_t number;

    if (request->path.length == 0 || request->path.at[0] != '/')
        return -1;
    entry = path_index_find(image, host->first_route, index, root, path_key_hash(root));
    if (entry == NULL)
        return -1;
    number = pick(image, host->first_route, entry->prefix, NONE, request);
    return number == NONE ? -1 : (int32_t)(host->first_route + number);
}

uint32_t paths_verdict(const struct image *image, const struct edge_image_route *route,
                       const struct match_request *request, uint32_t *field)
{
    bool same;
    uint32_t verdict;

    if (request->path.length == 0 || request->path.at[0] != '/')
        return EDGE_VERDICT_PATH;
    if (route->path_type == EDGE_PATH_REGEX)
        same = pattern_set_matches(image, route->pattern, request->path);
    else
        same = path_match(route->path_type, image_text(image, route->path), request->path);
    if (!same)
        return EDGE_VERDICT_PATH;
    if (route->condition == 0)
        return EDGE_VERDICT_SHADOWED;
    verdict = fields_verdict(image, &image->conditions[route->condition - 1], request, field);
    return verdict == EDGE_VERDICT_WON ? EDGE_VERDICT_SHADOWED : verdict;
}
