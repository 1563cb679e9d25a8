/* The validator's part for hosts and path indexes: every route of a host is found by its own path,
 * once, and every lookup and every chain ends.
 *
 * Called by check.c after the routes. Hosts that share an index must have the same paths: the
 * first one is compared with the index, the others with the first. */
#include "snapshot/check.h"
#include "snapshot/path_index.h"

/* One index against the routes of the first host that has it. */
struct proof {
    const struct edge_image_path_index *index;
    uint32_t first_route;
    uint32_t visited;
    uint64_t exact_counts, prefix_counts;
    uint64_t text_lengths[2];
};

/* One of its two tables of buckets. */
struct table {
    uint32_t first;
    uint32_t mask;
    bool by_text;
};

/* Exact before prefix before expressions, longer before shorter; precedence stands above. */
static bool in_order(const struct edge_image_route *a, const struct edge_image_route *b)
{
    if (a->precedence != b->precedence)
        return a->precedence < b->precedence;
    if (a->path_type != b->path_type)
        return a->path_type < b->path_type;
    return a->path.length >= b->path.length;
}

/* The routes of one key and type, by ascending numbers. */
static int check_chain(struct walk *walk, struct proof *proof, uint32_t value, uint32_t type,
                       struct slice key)
{
    const struct image *image = &walk->image;
    uint32_t number = path_value_number(value);

    if (number >= proof->index->route_count)
        REFUSE(walk, EDGE_ERR_REFERENCE, "exact", "a route outside the host");
    if ((image->routes[proof->first_route + number].condition != 0) !=
        ((value & EDGE_PATH_CONDITIONAL) != 0))
        REFUSE(walk, EDGE_ERR_INVALID, "exact", "the mark of a condition is wrong");
    for (;;) {
        const struct edge_image_route *route = &image->routes[proof->first_route + number];
        struct slice path = image_text(image, route->path);
        if (route->path_type != type || !slice_equal(path_key(type, path), key))
            REFUSE(walk, EDGE_ERR_REFERENCE, "exact", "a route with another path");
        proof->visited++;
        if (route->next == 0)
            return EDGE_OK;
        if (route->next - 1 <= number || route->next > proof->index->route_count)
            REFUSE(walk, EDGE_ERR_REFERENCE, "exact", "its routes are out of order");
        number = route->next - 1;
    }
}

static int check_routes_of(struct walk *walk, struct proof *proof, const struct table *table,
                           const struct edge_image_path_entry *it, struct slice key)
{
    const uint32_t elements = path_key_elements(key);

    if (table->by_text) {
        if (key.length == 0 || key.length > EDGE_PATH_TEXT_MAX || it->prefix != 0)
            REFUSE(walk, EDGE_ERR_INVALID, "key_length", "not a prefix by text");
        proof->text_lengths[key.length / 64] |= UINT64_C(1) << key.length % 64;
        return check_chain(walk, proof, it->exact, EDGE_PATH_STRING_PREFIX, key);
    }
    if (elements > EDGE_PATH_ELEMENTS_MAX)
        REFUSE(walk, EDGE_ERR_LIMIT, "key_offset", "%" PRIu32 " elements", elements);
    if (it->exact != 0) {
        proof->exact_counts |= UINT64_C(1) << elements;
        TRY(check_chain(walk, proof, it->exact, EDGE_PATH_EXACT, key));
    }
    if (it->prefix != 0) {
        proof->prefix_counts |= UINT64_C(1) << elements;
        TRY(check_chain(walk, proof, it->prefix, EDGE_PATH_PREFIX, key));
    }
    return EDGE_OK;
}

static int check_entry(struct walk *walk, struct proof *proof, const struct table *table,
                       uint32_t place)
{
    const struct image *image = &walk->image;
    const struct edge_image_path_entry *entries = image->path_entries + table->first;
    const struct edge_image_path_entry *it = &entries[place];
    const struct edge_text text = {it->key_offset, it->key_length};
    struct slice key;
    uint32_t hash;

    TRY(check_text(walk, text, "key_offset", LIMIT_PATH_BYTES));
    key = image_text(image, text);
    if (key.length > 0 && key.at[0] != '/')
        REFUSE(walk, EDGE_ERR_INVALID, "key_offset", "does not begin with a slash");
    hash = table->by_text ? edge_text_hash(key.at, key.length) : path_key_hash(key);
    if (it->tag != hash >> 16)
        REFUSE(walk, EDGE_ERR_INVALID, "tag", "is not that of the key");
    for (uint32_t at = hash & table->mask; at != place; at = (at + 1) & table->mask) {
        const struct edge_text other = {entries[at].key_offset, entries[at].key_length};
        if ((entries[at].exact | entries[at].prefix) == 0)
            REFUSE(walk, EDGE_ERR_INVALID, "tag", "no lookup comes to this bucket");
        if (entries[at].tag != it->tag || other.length != text.length)
            continue;
        TRY(check_text(walk, other, "key_offset", LIMIT_PATH_BYTES));
        if (slice_equal(image_text(image, other), key))
            REFUSE(walk, EDGE_ERR_INVALID, "key_offset", "stands twice in its index");
    }
    return check_routes_of(walk, proof, table, it, key);
}

static int check_entries(struct walk *walk, struct proof *proof, const struct table *table)
{
    const struct image *image = &walk->image;
    uint32_t empty = 0;

    walk->section = EDGE_SECTION_PATH_ENTRY;
    for (uint32_t i = 0; i <= table->mask; i++) {
        const struct edge_image_path_entry *it = &image->path_entries[table->first + i];
        if ((it->exact | it->prefix) != 0)
            continue;
        walk->index = table->first + i;
        if (!check_zero(it, sizeof(*it)))
            REFUSE(walk, EDGE_ERR_INVALID, "", "an empty bucket must be zero");
        empty++;
    }
    if (empty == 0)
        REFUSE(walk, EDGE_ERR_INVALID, "", "an index without an empty bucket");
    for (uint32_t i = 0; i <= table->mask; i++) {
        const struct edge_image_path_entry *it = &image->path_entries[table->first + i];
        walk->section = EDGE_SECTION_PATH_ENTRY;
        walk->index = table->first + i;
        if ((it->exact | it->prefix) != 0)
            TRY(check_entry(walk, proof, table, i));
    }
    return EDGE_OK;
}

static int check_others(struct walk *walk, struct proof *proof)
{
    const struct image *image = &walk->image;
    const struct edge_image_path_index *index = proof->index;

    walk->section = EDGE_SECTION_PATH_OTHER;
    for (uint32_t i = 0; i < index->other_count; i++) {
        const struct edge_image_path_other *it = &image->path_others[index->first_other + i];
        const struct edge_image_route *route;
        walk->index = index->first_other + i;
        if (it->route >= index->route_count || (i > 0 && it->route <= it[-1].route))
            REFUSE(walk, EDGE_ERR_REFERENCE, "route", "%" PRIu32 " does not follow", it->route);
        route = &image->routes[proof->first_route + it->route];
        if (!path_is_other(route->path_type, image_text(image, route->path)) || route->next != 0)
            REFUSE(walk, EDGE_ERR_REFERENCE, "route", "belongs into a bucket");
        proof->visited++;
    }
    return EDGE_OK;
}

static int check_index(struct walk *walk, uint32_t number, uint32_t first_route, uint32_t *entries,
                       uint32_t *others)
{
    const struct image *image = &walk->image;
    const struct edge_image_path_index *it = &image->path_indexes[number];
    struct proof proof = {.index = it, .first_route = first_route};

    walk->section = EDGE_SECTION_PATH_INDEX;
    walk->index = number;
    if (it->first_route != first_route)
        REFUSE(walk, EDGE_ERR_REFERENCE, "first_route", "not that of the first host");
    if (it->route_count == 0)
        REFUSE(walk, EDGE_ERR_INVALID, "route_count", "a host without a route");
    if (first_route > image->count[EDGE_SECTION_ROUTE] ||
        it->route_count > image->count[EDGE_SECTION_ROUTE] - first_route)
        REFUSE(walk, EDGE_ERR_REFERENCE, "route_count", "more routes than there are");
    if (it->mask > LIMIT_BUCKETS - 1 || (it->mask & (it->mask + 1)) != 0)
        REFUSE(walk, EDGE_ERR_INVALID, "mask", "not a power of two minus one");
    if ((it->flags & ~(uint32_t)(EDGE_PATHS_ORDERED | EDGE_PATHS_FALL_THROUGH)) != 0)
        REFUSE(walk, EDGE_ERR_INVALID, "flags", "unknown");
    if (it->text_buckets > LIMIT_BUCKETS || (it->text_buckets & (it->text_buckets - 1)) != 0)
        REFUSE(walk, EDGE_ERR_INVALID, "text_buckets", "not a power of two");
    TRY(check_list(walk, it->first_entry, it->mask + 1 + it->text_buckets, EDGE_SECTION_PATH_ENTRY,
                   entries, "first_entry"));
    TRY(check_list(walk, it->first_other, it->other_count, EDGE_SECTION_PATH_OTHER, others,
                   "first_other"));
    TRY(check_entries(walk, &proof, &(struct table){it->first_entry, it->mask, false}));
    if (it->text_buckets > 0)
        TRY(check_entries(
            walk, &proof,
            &(struct table){it->first_entry + it->mask + 1, it->text_buckets - 1, true}));
    TRY(check_others(walk, &proof));
    walk->section = EDGE_SECTION_PATH_INDEX;
    walk->index = number;
    if (proof.visited != it->route_count)
        REFUSE(walk, EDGE_ERR_REFERENCE, "route_count", "%" PRIu32 " of %" PRIu32 " are found",
               proof.visited, it->route_count);
    if (proof.exact_counts != it->exact_counts || proof.prefix_counts != it->prefix_counts)
        REFUSE(walk, EDGE_ERR_INVALID, "exact_counts", "are not those of the keys");
    if (memcmp(proof.text_lengths, it->text_lengths, sizeof(proof.text_lengths)) != 0)
        REFUSE(walk, EDGE_ERR_INVALID, "text_lengths", "are not those of the keys");
    if (path_index_ordered(image, it, first_route) != ((it->flags & EDGE_PATHS_ORDERED) != 0))
        REFUSE(walk, EDGE_ERR_INVALID, "flags", "the order is not as said");
    return EDGE_OK;
}

static int check_same(struct walk *walk, uint32_t first, uint32_t known, uint32_t count)
{
    const struct edge_image_route *routes = walk->image.routes;

    walk->section = EDGE_SECTION_ROUTE;
    for (uint32_t i = 0; i < count; i++) {
        const struct edge_image_route *a = &routes[known + i], *b = &routes[first + i];
        walk->index = first + i;
        if (a->path_type != b->path_type || a->path.offset != b->path.offset ||
            a->path.length != b->path.length || a->next != b->next ||
            (a->condition != 0) != (b->condition != 0))
            REFUSE(walk, EDGE_ERR_REFERENCE, "path", "is not as the host's path index says");
    }
    return EDGE_OK;
}

/* How far the walk over the hosts has come. */
struct cursor {
    uint32_t routes, indexes, entries, others;
};

static int check_host(struct walk *walk, const struct edge_image_host_entry *it,
                      struct cursor *cursor)
{
    const struct image *image = &walk->image;
    const uint32_t fresh = cursor->indexes;
    uint32_t count;

    TRY(check_shared(walk, it->path_index, EDGE_SECTION_PATH_INDEX, &cursor->indexes,
                     "path_index"));
    count = image->path_indexes[it->path_index].route_count;
    TRY(check_list(walk, it->first_route, count, EDGE_SECTION_ROUTE, &cursor->routes,
                   "first_route"));
    if (it->path_index == fresh)
        TRY(check_index(walk, fresh, it->first_route, &cursor->entries, &cursor->others));
    else
        TRY(check_same(walk, it->first_route, image->path_indexes[it->path_index].first_route,
                       count));
    for (uint32_t k = it->first_route + 1; k < it->first_route + count; k++) {
        walk->section = EDGE_SECTION_ROUTE;
        walk->index = k;
        if (!in_order(&image->routes[k - 1], &image->routes[k]))
            REFUSE(walk, EDGE_ERR_INVALID, "precedence", "routes are out of order");
    }
    return EDGE_OK;
}

/* The "any host" entries stand behind all buckets, in the order of their tables. */
static int check_any_hosts(struct walk *walk, uint32_t buckets, uint32_t *any_hosts)
{
    const struct image *image = &walk->image;

    *any_hosts = buckets;
    walk->section = EDGE_SECTION_HOST_TABLE;
    for (uint32_t i = 0; i < image->count[EDGE_SECTION_HOST_TABLE]; i++) {
        walk->index = i;
        if (image->host_tables[i].fallback == 0)
            continue;
        if (image->host_tables[i].fallback - 1 != *any_hosts ||
            *any_hosts >= image->count[EDGE_SECTION_HOST_ENTRY])
            REFUSE(walk, EDGE_ERR_REFERENCE, "fallback", "is not the next any-host entry");
        ++*any_hosts;
    }
    return check_used_up(walk, EDGE_SECTION_HOST_ENTRY, *any_hosts);
}

int check_hosts(struct walk *walk)
{
    const struct image *image = &walk->image;
    struct cursor cursor = {0};
    uint32_t buckets, any_hosts;

    TRY(check_tables(walk, false, &buckets));
    TRY(check_any_hosts(walk, buckets, &any_hosts));
    for (uint32_t i = 0; i < any_hosts; i++) {
        const struct edge_image_host_entry *it = &image->host_entries[i];
        walk->section = EDGE_SECTION_HOST_ENTRY;
        walk->index = i;
        if (it->name_length == 0 && i < buckets) {
            if (!check_zero(it, sizeof(*it)))
                REFUSE(walk, EDGE_ERR_INVALID, "", "an empty bucket must be zero");
            continue;
        }
        if (i >= buckets &&
            (it->name_length != 0 || it->name_offset != 0 || it->tag != 0 || it->wildcard != 0))
            REFUSE(walk, EDGE_ERR_INVALID, "name", "an any-host entry has no name");
        TRY(check_host(walk, it, &cursor));
    }
    TRY(check_used_up(walk, EDGE_SECTION_ROUTE, cursor.routes));
    TRY(check_used_up(walk, EDGE_SECTION_PATH_INDEX, cursor.indexes));
    TRY(check_used_up(walk, EDGE_SECTION_PATH_ENTRY, cursor.entries));
    TRY(check_used_up(walk, EDGE_SECTION_PATH_OTHER, cursor.others));
    return EDGE_OK;
}
