/* The part of the image builder that lays out names: hosts with their routes, server names.
 *
 * Called by build.c. Deterministic: the same objects give the same bytes, in whatever order their
 * fragments came. */
#include <stdlib.h>
#include <string.h>

#include "snapshot/builder.h"

/* A route with its host resolved, for sorting. */
struct placed {
    struct item item;
    const struct edge_fragment_route *fragment;
    struct slice host;
    struct slice path;
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

/* Precedence, then exact before prefix, then longer before shorter: check.c's in_order(). */
static int compare_routes(const void *left, const void *right)
{
    const struct placed *a = left, *b = right;
    const struct edge_image_route *x = &a->fragment->route, *y = &b->fragment->route;
    int order = compare_hosts(a, b);

    if (order != 0)
        return order;
    if (x->precedence != y->precedence)
        return x->precedence < y->precedence ? -1 : 1;
    if (x->path_type != y->path_type)
        return x->path_type < y->path_type ? -1 : 1;
    if (a->path.length != b->path.length)
        return a->path.length > b->path.length ? -1 : 1;
    return (x->slot > y->slot) - (x->slot < y->slot);
}

static int put_route(struct builder *builder, const struct placed *placed)
{
    const struct edge_fragment_route *fragment = placed->fragment;
    struct edge_image_route route = fragment->route, *entry;
    struct edge_image_filter *filters;
    struct edge_image_reference *references;
    const void *from_filters, *from_references;
    struct item item = placed->item;

    if (route.first_filter != 0 || route.first_reference != 0)
        return builder_refuse(builder, item, EDGE_ERR_INVALID, "first_filter", "must be zero");
    BUILDER_TRY(builder_array(builder, item, fragment->filters_offset, route.filter_count,
                              sizeof(*filters), "filters_offset", &from_filters));
    BUILDER_TRY(builder_array(builder, item, fragment->references_offset, route.reference_count,
                              sizeof(*references), "references_offset", &from_references));
    route.first_filter = builder->section[EDGE_SECTION_FILTER].count;
    route.first_reference = builder->section[EDGE_SECTION_REFERENCE].count;
    filters = builder_append(builder, EDGE_SECTION_FILTER, route.filter_count, item.number);
    references =
        builder_append(builder, EDGE_SECTION_REFERENCE, route.reference_count, item.number);
    if (filters == NULL || references == NULL)
        return builder_no_memory(builder);
    memcpy(filters, from_filters, route.filter_count * sizeof(*filters));
    memcpy(references, from_references, route.reference_count * sizeof(*references));
    BUILDER_TRY(builder_move_text(builder, item, &route.path, "path"));
    BUILDER_TRY(builder_move_text(builder, item, &route.kind, "kind"));
    BUILDER_TRY(builder_move_text(builder, item, &route.object_namespace, "object_namespace"));
    BUILDER_TRY(builder_move_text(builder, item, &route.object_name, "object_name"));
    BUILDER_TRY(builder_move_text(builder, item, &route.path_written, "path_written"));
    BUILDER_TRY(builder_move_text(builder, item, &route.service, "service"));
    entry = builder_append(builder, EDGE_SECTION_ROUTE, 1, item.number);
    if (entry == NULL)
        return builder_no_memory(builder);
    *entry = route;
    return EDGE_OK;
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
        struct edge_text name;
        uint32_t hash, at;
        if (routes[i].fragment->domain != domain->number || routes[i].host.length == 0)
            continue;
        if (i > 0 && compare_hosts(&routes[i - 1], &routes[i]) == 0)
            continue;
        BUILDER_TRY(builder_intern(builder, routes[i].host, &name));
        hash = edge_text_hash(routes[i].host.at, routes[i].host.length);
        for (at = hash & (buckets - 1); entries[at].name.length != 0;)
            at = (at + 1) & (buckets - 1);
        entries[at].name = name;
        entries[at].hash = hash;
        entries[at].wildcard = routes[i].fragment->wildcard;
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
        uint32_t first = builder->section[EDGE_SECTION_ROUTE].count;
        struct edge_image_host_entry *entry;
        if (groups[host] == 0)
            continue;
        for (uint32_t i = groups[host] - 1;
             i < count && compare_hosts(&routes[groups[host] - 1], &routes[i]) == 0; i++)
            BUILDER_TRY(put_route(builder, &routes[i]));
        entry = (struct edge_image_host_entry *)(void *)builder->section[EDGE_SECTION_HOST_ENTRY]
                    .bytes +
                host;
        entry->first_route = first;
        entry->route_count = builder->section[EDGE_SECTION_ROUTE].count - first;
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
        if (it->host.length == 0 && it->fragment->wildcard != 0)
            return builder_refuse(builder, it->item, EDGE_ERR_INVALID, "wildcard",
                                  "without a host");
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

/* ---- Server names ---- */

static struct slice server_name(const struct item *item, const struct edge_text *name)
{
    return (struct slice){(const char *)item->head + name->offset, name->length};
}

/* The first certificate that has a name gets it: the caller ordered them. */
static int put_server_name(struct builder *builder, const struct edge_image_table *table,
                           struct item item, uint32_t certificate, struct slice name)
{
    struct edge_image_sni_entry *entries =
        (struct edge_image_sni_entry *)(void *)builder->section[EDGE_SECTION_SNI_ENTRY].bytes +
        table->first_entry;
    uint32_t hash = edge_text_hash(name.at, name.length), at;
    struct edge_text text;

    BUILDER_TRY(builder_intern(builder, name, &text));
    for (at = hash & table->mask; entries[at].name.length != 0; at = (at + 1) & table->mask)
        if (entries[at].name.offset == text.offset && entries[at].name.length == text.length)
            return EDGE_OK;
    entries[at] = (struct edge_image_sni_entry){
        .name = text,
        .hash = hash,
        .wildcard = name.at[0] == '.',
        .action = EDGE_SNI_TERMINATE,
        .certificate = certificate,
    };
    builder->section[EDGE_SECTION_SNI_ENTRY].origin[table->first_entry + at] = item.number;
    return EDGE_OK;
}

static int put_server_table(struct builder *builder, const struct domain *domain)
{
    const struct items *given = &builder->items[EDGE_FRAGMENT_CERTIFICATE];
    struct edge_image_table *table = builder_append(builder, EDGE_SECTION_SNI_TABLE, 1, UINT32_MAX);
    const uint32_t buckets = builder_buckets(domain->server_names);

    if (table == NULL)
        return builder_no_memory(builder);
    table->first_entry = builder->section[EDGE_SECTION_SNI_ENTRY].count;
    table->mask = buckets - 1;
    if (builder_append(builder, EDGE_SECTION_SNI_ENTRY, buckets, UINT32_MAX) == NULL)
        return builder_no_memory(builder);
    for (uint32_t i = 0; i < given->count; i++) {
        const struct edge_fragment_certificate *fragment = (const void *)given->at[i].head;
        const struct edge_text *names;
        const void *array;
        if (fragment->domain != domain->number)
            continue;
        if (fragment->is_default != 0 && table->fallback == 0)
            table->fallback = i + 1;
        BUILDER_TRY(builder_array(builder, given->at[i], fragment->names_offset,
                                  fragment->names_count, sizeof(*names), "names_offset", &array));
        names = array;
        for (uint32_t k = 0; k < fragment->names_count; k++)
            BUILDER_TRY(put_server_name(builder, table, given->at[i], i,
                                        server_name(&given->at[i], &names[k])));
    }
    return EDGE_OK;
}

int builder_put_server_names(struct builder *builder)
{
    const struct items *given = &builder->items[EDGE_FRAGMENT_CERTIFICATE];

    for (uint32_t i = 0; i < given->count; i++) {
        const struct edge_fragment_certificate *fragment = (const void *)given->at[i].head;
        struct edge_image_certificate *entry;
        struct domain *domain;
        const struct edge_text *names;
        const void *array;
        BUILDER_TRY(builder_domain(builder, given->at[i], fragment->domain, &domain));
        BUILDER_TRY(builder_array(builder, given->at[i], fragment->names_offset,
                                  fragment->names_count, sizeof(*names), "names_offset", &array));
        names = array;
        for (uint32_t k = 0; k < fragment->names_count; k++) {
            struct slice name;
            BUILDER_TRY(builder_text(builder, given->at[i], names[k], "names", &name));
            if (name.length == 0)
                return builder_refuse(builder, given->at[i], EDGE_ERR_INVALID, "names",
                                      "an empty name");
        }
        domain->server_names += fragment->names_count;
        entry = builder_append(builder, EDGE_SECTION_CERTIFICATE, 1, given->at[i].number);
        if (entry == NULL)
            return builder_no_memory(builder);
        *entry = fragment->certificate;
    }
    for (uint32_t d = 0; d < builder->domain_count; d++)
        BUILDER_TRY(put_server_table(builder, &builder->domain[d]));
    return EDGE_OK;
}
