/* The part of the image builder that lays out hosts, with their routes in order.
 *
 * Called by build.c. The routes themselves are build_routes.c's, their paths build_paths.c's.
 * Deterministic: the same objects give the same bytes, in whatever order their fragments came. */
#include <stdlib.h>
#include <string.h>

#include "snapshot/builder.h"

/* A route with its host resolved, for sorting. */
struct placed {
    struct item item;
    const struct edge_fragment_route *fragment;
    struct slice host;
    struct slice path;
    struct slice space;
    struct slice name;
};

static int compare_text(struct slice a, struct slice b)
{
    size_t length = a.length < b.length ? a.length : b.length;
    int order = length == 0 ? 0 : memcmp(a.at, b.at, length);

    return order != 0 ? order : (a.length > b.length) - (a.length < b.length);
}

static int compare_hosts(const struct placed *a, const struct placed *b)
{
    if (a->fragment->domain != b->fragment->domain)
        return a->fragment->domain < b->fragment->domain ? -1 : 1;
    if (a->fragment->wildcard != b->fragment->wildcard)
        return a->fragment->wildcard < b->fragment->wildcard ? -1 : 1;
    return compare_text(a->host, b->host);
}

static int compare_objects(const struct placed *a, const struct placed *b)
{
    int order = compare_text(a->space, b->space);

    return order != 0 ? order : compare_text(a->name, b->name);
}

/* Precedence, then exact before prefix, then longer before shorter: in_order() of the check. Then
 * who stands first by the Gateway API's last rules: the older object, its name, the rule's place.
 */
static int compare_routes(const void *left, const void *right)
{
    const struct placed *a = left, *b = right;
    const struct edge_route *x = &a->fragment->route, *y = &b->fragment->route;
    int order = compare_hosts(a, b);

    if (order != 0)
        return order;
    if (x->precedence != y->precedence)
        return x->precedence < y->precedence ? -1 : 1;
    if (x->path_type != y->path_type)
        return x->path_type < y->path_type ? -1 : 1;
    if (a->path.length != b->path.length)
        return a->path.length > b->path.length ? -1 : 1;
    if (x->created_s != y->created_s)
        return x->created_s < y->created_s ? -1 : 1;
    order = compare_objects(a, b);
    if (order != 0)
        return order;
    if (x->rule_index != y->rule_index)
        return x->rule_index < y->rule_index ? -1 : 1;
    if (x->path_index != y->path_index)
        return x->path_index < y->path_index ? -1 : 1;
    return (x->slot > y->slot) - (x->slot < y->slot);
}

/* Which group of routes (index of its first + 1) each host entry holds. */
static int put_host_table(struct builder *builder, struct domain *domain,
                          const struct placed *routes, uint32_t count, uint32_t **groups)
{
    struct edge_image_table *table =
        builder_append(builder, EDGE_SECTION_HOST_TABLE, 1, UINT32_MAX);
    const uint32_t buckets = builder_buckets(domain->host_names);
    const uint32_t first = builder->section[EDGE_SECTION_HOST_ENTRY].count;
    struct edge_image_host_entry *entries;
    uint32_t *grown;

    if (table == NULL)
        return builder_no_memory(builder);
    *table = (struct edge_image_table){.first_entry = first, .mask = buckets - 1};
    entries = builder_append(builder, EDGE_SECTION_HOST_ENTRY, buckets, UINT32_MAX);
    grown = realloc(*groups, (first + buckets) * sizeof(**groups));
    if (grown != NULL)
        *groups = grown;
    if (entries == NULL || grown == NULL)
        return builder_no_memory(builder);
    memset(grown + first, 0, buckets * sizeof(*grown));
    for (uint32_t i = 0; i < count; i++) {
        uint32_t hash, at;
        if (routes[i].fragment->domain != domain->number || routes[i].host.length == 0)
            continue;
        if (i > 0 && compare_hosts(&routes[i - 1], &routes[i]) == 0)
            continue;
        if (routes[i].host.length > LIMIT_NAME_BYTES)
            return builder_refuse(builder, routes[i].item, EDGE_ERR_LIMIT, "host", "too long");
        hash = edge_text_hash(routes[i].host.at, routes[i].host.length);
        for (at = hash & (buckets - 1); entries[at].name_length != 0;)
            at = (at + 1) & (buckets - 1);
        entries[at].tag = (uint16_t)(hash >> 16);
        entries[at].name_length = (uint8_t)routes[i].host.length;
        entries[at].wildcard = (uint8_t)routes[i].fragment->wildcard;
        table->wildcards |=
            image_wildcard_bit(routes[i].host, (uint8_t)routes[i].fragment->wildcard);
        builder->section[EDGE_SECTION_HOST_ENTRY].origin[first + at] = routes[i].item.number;
        grown[first + at] = i + 1;
    }
    return EDGE_OK;
}

static int fill_hosts(struct builder *builder, const struct placed *routes, uint32_t count,
                      uint32_t *groups)
{
    const uint32_t hosts = builder->section[EDGE_SECTION_HOST_ENTRY].count;

    for (uint32_t host = 0; host < hosts; host++) {
        uint32_t first = builder->section[EDGE_SECTION_ROUTE].count, flags = 0, paths;
        struct edge_image_host_entry *entry;
        struct edge_text name;
        if (groups[host] == 0)
            continue;
        /* The name stands beside the texts of its routes: a request reads both. */
        BUILDER_TRY(builder_intern(builder, routes[groups[host] - 1].host, &name));
        for (uint32_t i = groups[host] - 1;
             i < count && compare_hosts(&routes[groups[host] - 1], &routes[i]) == 0; i++) {
            BUILDER_TRY(builder_put_route(builder, routes[i].item));
            if (routes[i].fragment->fall_through != 0)
                flags = EDGE_PATHS_FALL_THROUGH;
        }
        BUILDER_TRY(builder_put_paths(builder, first,
                                      builder->section[EDGE_SECTION_ROUTE].count - first, flags,
                                      routes[groups[host] - 1].item.number, &paths));
        entry = (struct edge_image_host_entry *)(void *)builder->section[EDGE_SECTION_HOST_ENTRY]
                    .bytes +
                host;
        entry->name_offset = name.offset;
        entry->first_route = first;
        entry->path_index = paths;
    }
    return EDGE_OK;
}

static int count_hosts(struct builder *builder, const struct placed *routes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct domain *domain;
        BUILDER_TRY(builder_domain(builder, routes[i].item, routes[i].fragment->domain, &domain));
        if (routes[i].host.length == 0)
            domain->any_host = true;
        else if (i == 0 || compare_hosts(&routes[i - 1], &routes[i]) != 0)
            domain->host_names++;
    }
    return EDGE_OK;
}

static int put_any_hosts(struct builder *builder, const struct placed *routes, uint32_t count,
                         uint32_t **groups)
{
    for (uint32_t d = 0; d < builder->domain_count; d++) {
        uint32_t index = builder->section[EDGE_SECTION_HOST_ENTRY].count;
        struct edge_image_table *tables;
        uint32_t *grown, i = 0;
        if (!builder->domain[d].any_host)
            continue;
        while (routes[i].fragment->domain != builder->domain[d].number ||
               routes[i].host.length != 0)
            i++;
        (void)count; /* any_host says that there is one */
        grown = realloc(*groups, (index + 1) * sizeof(**groups));
        if (grown == NULL)
            return builder_no_memory(builder);
        *groups = grown;
        grown[index] = i + 1;
        if (builder_append(builder, EDGE_SECTION_HOST_ENTRY, 1, routes[i].item.number) == NULL)
            return builder_no_memory(builder);
        tables = (void *)builder->section[EDGE_SECTION_HOST_TABLE].bytes;
        tables[d].fallback = index + 1;
    }
    return EDGE_OK;
}

static int place_hosts(struct builder *builder, struct placed *routes, uint32_t **groups)
{
    const struct items *given = &builder->items[EDGE_FRAGMENT_ROUTE];

    for (uint32_t i = 0; i < given->count; i++) {
        struct placed *it = &routes[i];
        it->item = given->at[i];
        it->fragment = (const void *)given->at[i].head;
        BUILDER_TRY(builder_text(builder, it->item, it->fragment->host, "host", &it->host));
        BUILDER_TRY(builder_text(builder, it->item, it->fragment->route.path, "path", &it->path));
        if (it->path.length > LIMIT_PATH_BYTES)
            return builder_refuse(builder, it->item, EDGE_ERR_LIMIT, "path", "too long");
        BUILDER_TRY(builder_text(builder, it->item, it->fragment->route.object_namespace,
                                 "object_namespace", &it->space));
        BUILDER_TRY(builder_text(builder, it->item, it->fragment->route.object_name, "object_name",
                                 &it->name));
        if (it->host.length == 0 && it->fragment->wildcard != 0)
            return builder_refuse(builder, it->item, EDGE_ERR_INVALID, "wildcard",
                                  "without a host");
        if (it->fragment->wildcard > EDGE_WILDCARD_SUFFIX)
            return builder_refuse(builder, it->item, EDGE_ERR_INVALID, "wildcard", "unknown");
        if (it->fragment->fall_through > 1 || it->fragment->route.reserved != 0)
            return builder_refuse(builder, it->item, EDGE_ERR_INVALID, "fall_through",
                                  "is neither 0 nor 1");
    }
    qsort(routes, given->count, sizeof(*routes), compare_routes);
    BUILDER_TRY(count_hosts(builder, routes, given->count));
    for (uint32_t d = 0; d < builder->domain_count; d++)
        BUILDER_TRY(put_host_table(builder, &builder->domain[d], routes, given->count, groups));
    BUILDER_TRY(put_any_hosts(builder, routes, given->count, groups));
    return fill_hosts(builder, routes, given->count, *groups);
}

int builder_put_hosts(struct builder *builder)
{
    struct placed *routes = calloc(builder->items[EDGE_FRAGMENT_ROUTE].count + 1, sizeof(*routes));
    uint32_t *groups = NULL;
    int rc = routes == NULL ? builder_no_memory(builder) : place_hosts(builder, routes, &groups);

    free(routes);
    free(groups);
    return rc;
}
