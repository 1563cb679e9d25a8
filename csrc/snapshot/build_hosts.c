/* The part of the image builder that keeps routes under their hosts, and lays both out in order.
 *
 * Called by build.c. The routes themselves are build_routes.c's, their paths build_paths.c's.
 * Deterministic: the same objects give the same bytes, in whatever order their fragments came. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "snapshot/builder.h"

struct host_key {
    uint32_t domain, wildcard, name;
};

static int compare_text(struct slice a, struct slice b)
{
    size_t length = a.length < b.length ? a.length : b.length;
    int order = length == 0 ? 0 : memcmp(a.at, b.at, length);

    return order != 0 ? order : (a.length > b.length) - (a.length < b.length);
}

static int compare_hosts(const struct edge_builder *builder, const struct host *a,
                         const struct host *b)
{
    if (a->domain != b->domain)
        return a->domain < b->domain ? -1 : 1;
    if (a->wildcard != b->wildcard)
        return a->wildcard < b->wildcard ? -1 : 1;
    return compare_text(builder_kept(builder, a->name), builder_kept(builder, b->name));
}

static int compare_objects(const struct edge_builder *builder, uint32_t a, uint32_t b)
{
    uint32_t x[3], y[3]; /* kind, namespace, name */
    int order;

    if (a == b)
        return 0;
    memcpy(x, builder->objects.at[a].bytes, sizeof(x));
    memcpy(y, builder->objects.at[b].bytes, sizeof(y));
    order = compare_text(builder_kept(builder, x[1]), builder_kept(builder, y[1]));
    return order != 0 ? order
                      : compare_text(builder_kept(builder, x[2]), builder_kept(builder, y[2]));
}

/* Precedence, then exact before prefix, then longer before shorter: in_order() of the check. Then
 * who stands first by the Gateway API's last rules: the older object, its name, the rule's place.
 */
static int compare_routes(const struct edge_builder *builder, const struct route *a,
                          const struct route *b)
{
    const struct edge_image_route *x = &a->entry, *y = &b->entry;
    const uint32_t first = builder->texts.at[a->path].length;
    const uint32_t second = builder->texts.at[b->path].length;
    int order;

    if (x->precedence != y->precedence)
        return x->precedence < y->precedence ? -1 : 1;
    if (x->path_type != y->path_type)
        return x->path_type < y->path_type ? -1 : 1;
    if (first != second)
        return first > second ? -1 : 1;
    if (a->created_s != b->created_s)
        return a->created_s < b->created_s ? -1 : 1;
    order = compare_objects(builder, a->object, b->object);
    if (order != 0)
        return order;
    if (x->rule_index != y->rule_index)
        return x->rule_index < y->rule_index ? -1 : 1;
    if (x->path_index != y->path_index)
        return x->path_index < y->path_index ? -1 : 1;
    return (x->slot > y->slot) - (x->slot < y->slot);
}

static int by_host(const void *left, const void *right, void *builder)
{
    return compare_hosts(builder, *(struct host *const *)left, *(struct host *const *)right);
}

static int by_precedence(const void *left, const void *right, void *builder)
{
    return compare_routes(builder, *(struct route *const *)left, *(struct route *const *)right);
}

/* ---- Objects that come and go ---- */

static int find_host(struct edge_builder *builder, struct item item,
                     const struct edge_fragment_route *fragment, struct host **out)
{
    struct host_key key = {fragment->domain, fragment->wildcard, 0};
    struct host *host;
    uint32_t id;
    bool fresh;

    BUILDER_TRY(builder_keep(builder, item, fragment->host, "host", &key.name));
    id = atoms_get(&builder->host_keys, &key, sizeof(key), &fresh);
    if (id == ATOM_NONE)
        return builder_no_memory(builder);
    if (!fresh) { /* of use as long as it has routes: see settle */
        builder_forget(builder, key.name);
        atoms_release(&builder->host_keys, id);
        *out = builder->host_keys.at[id].extra;
        return EDGE_OK;
    }
    BUILDER_TRY(builder_room(builder, &builder->hosts, &builder->host_room, builder->host_count + 1,
                             sizeof(struct host *)));
    host = calloc(1, sizeof(*host));
    if (host == NULL)
        return builder_no_memory(builder);
    *host = (struct host){.domain = key.domain,
                          .wildcard = key.wildcard,
                          .name = key.name,
                          .hash = builder->texts.at[key.name].hash,
                          .id = id,
                          .list = ATOM_NONE};
    builder->host_keys.at[id].extra = *out = host;
    builder->hosts[builder->host_count++] = host;
    return EDGE_OK;
}

static int check_route(struct edge_builder *builder, struct item item)
{
    const struct edge_fragment_route *fragment = (const void *)item.head;
    struct slice host;

    BUILDER_TRY(builder_text(builder, item, fragment->host, "host", &host));
    if (fragment->route.slot >= EDGE_ROUTE_SLOTS)
        return error_at(builder->err, EDGE_ERR_LIMIT, EDGE_SECTION_ROUTE, item.number, "slot",
                        "over the limit");
    if (host.length == 0 && fragment->wildcard != 0)
        return builder_refuse(builder, item, EDGE_ERR_INVALID, "wildcard", "without a host");
    if (fragment->wildcard > EDGE_WILDCARD_SUFFIX)
        return builder_refuse(builder, item, EDGE_ERR_INVALID, "wildcard", "unknown");
    if (host.length > LIMIT_NAME_BYTES)
        return builder_refuse(builder, item, EDGE_ERR_LIMIT, "host", "too long");
    if (fragment->fall_through > 1 || fragment->route.reserved != 0)
        return builder_refuse(builder, item, EDGE_ERR_INVALID, "fall_through",
                              "is neither 0 nor 1");
    return EDGE_OK;
}

static void changed(struct edge_builder *builder, struct host *host)
{
    builder_release_list(builder, host->list);
    host->list = ATOM_NONE;
}

int builder_put_route(struct edge_builder *builder, struct item item)
{
    const struct edge_fragment_route *fragment = (const void *)item.head;
    const uint32_t slot = fragment->route.slot, before = builder->route_slots;
    struct route *route;
    struct host *host = NULL;
    int rc;

    BUILDER_TRY(check_route(builder, item));
    BUILDER_TRY(
        builder_room(builder, &builder->routes, &builder->route_slots, slot + 1, sizeof(route)));
    if (builder->route_slots > before)
        memset(builder->routes + before, 0, (builder->route_slots - before) * sizeof(route));
    if (builder->routes[slot] != NULL)
        return error_at(builder->err, EDGE_ERR_INVALID, EDGE_SECTION_ROUTE, item.number, "slot",
                        "given twice");
    BUILDER_TRY(find_host(builder, item, fragment, &host));
    BUILDER_TRY(builder_room(builder, &host->routes, &host->room, host->count + 1, sizeof(route)));
    route = calloc(1, sizeof(*route));
    if (route == NULL)
        return builder_no_memory(builder);
    route->host = host;
    rc = builder_read_route(builder, item, route);
    if (rc != EDGE_OK) {
        free(route);
        return rc;
    }
    builder->routes[slot] = route;
    changed(builder, host);
    route->place = host->count;
    host->routes[host->count++] = route;
    return EDGE_OK;
}

void builder_drop_route(struct edge_builder *builder, uint32_t slot)
{
    struct route *route = slot < builder->route_slots ? builder->routes[slot] : NULL;
    struct route *last;

    if (route == NULL)
        return;
    changed(builder, route->host);
    last = route->host->routes[--route->host->count]; /* they are put in order again anyway */
    last->place = route->place;
    route->host->routes[last->place] = last;
    builder->host_left |= route->host->count == 0;
    builder_release_route(builder, route);
    builder->routes[slot] = NULL;
    free(route);
}

static void free_host(struct edge_builder *builder, struct host *host)
{
    const uint32_t id = host->id, name = host->name;

    free(host->routes);
    atoms_release(&builder->host_keys, id);
    atoms_remove(&builder->host_keys, id); /* and the host */
    builder_forget(builder, name);
}

/* Bring hosts into order again: without those that have no route, with those that came. */
static int order_hosts(struct edge_builder *builder)
{
    uint32_t sorted = 0, kept = 0, a = 0, b, count;
    struct host **merged, **hosts = builder->hosts;

    for (uint32_t i = 0; i < builder->host_count; i++) {
        if (i == builder->hosts_sorted)
            sorted = kept;
        if (hosts[i]->count == 0)
            free_host(builder, hosts[i]);
        else
            hosts[kept++] = hosts[i];
    }
    if (builder->hosts_sorted == builder->host_count)
        sorted = kept;
    builder->host_count = builder->hosts_sorted = kept;
    builder->host_left = false;
    if (sorted == kept)
        return EDGE_OK;
    qsort_r(hosts + sorted, kept - sorted, sizeof(*hosts), by_host, builder);
    if (sorted == 0 || compare_hosts(builder, hosts[sorted - 1], hosts[sorted]) < 0)
        return EDGE_OK;
    merged = malloc(builder->host_room * sizeof(*merged));
    if (merged == NULL)
        return builder_no_memory(builder);
    for (b = sorted, count = 0; a < sorted || b < kept;)
        if (b == kept || (a < sorted && compare_hosts(builder, hosts[a], hosts[b]) < 0))
            merged[count++] = hosts[a++];
        else
            merged[count++] = hosts[b++];
    free(builder->hosts);
    builder->hosts = merged;
    return EDGE_OK;
}

int builder_settle_hosts(struct edge_builder *builder)
{
    if (builder->host_left || builder->hosts_sorted != builder->host_count)
        BUILDER_TRY(order_hosts(builder));
    for (uint32_t i = 0; i < builder->host_count; i++) {
        struct host *host = builder->hosts[i];
        if (host->list != ATOM_NONE)
            continue;
        qsort_r(host->routes, host->count, sizeof(*host->routes), by_precedence, builder);
        host->flags = 0;
        for (uint32_t k = 0; k < host->count; k++) {
            host->routes[k]->place = k;
            if (host->routes[k]->fall_through)
                host->flags = EDGE_PATHS_FALL_THROUGH;
        }
        BUILDER_TRY(builder_list_paths(builder, host));
    }
    return EDGE_OK;
}

void builder_close_hosts(struct edge_builder *builder)
{
    for (uint32_t slot = 0; slot < builder->route_slots; slot++)
        free(builder->routes[slot]);
    for (uint32_t i = 0; i < builder->host_count; i++)
        free(builder->hosts[i]->routes);
    free(builder->routes);
    free(builder->hosts);
}

/* ---- Layout ---- */

static int append_entries(struct edge_builder *builder, uint32_t count, uint32_t origin)
{
    const uint32_t first = builder->section[EDGE_SECTION_HOST_ENTRY].count;

    if (builder_append(builder, EDGE_SECTION_HOST_ENTRY, count, origin) == NULL)
        return builder_no_memory(builder);
    BUILDER_TRY(builder_room(builder, &builder->host_of_entry, &builder->entry_room, first + count,
                             sizeof(uint32_t)));
    memset(builder->host_of_entry + first, 0, count * sizeof(uint32_t));
    return EDGE_OK;
}

static struct edge_image_host_entry *entry_at(struct edge_builder *builder, uint32_t index)
{
    return (struct edge_image_host_entry *)(void *)builder->section[EDGE_SECTION_HOST_ENTRY].bytes +
           index;
}

static int lay_host_table(struct edge_builder *builder, const struct domain *domain)
{
    struct edge_image_table *table =
        builder_append(builder, EDGE_SECTION_HOST_TABLE, 1, UINT32_MAX);
    const uint32_t buckets = builder_buckets(domain->host_names);
    const uint32_t first = builder->section[EDGE_SECTION_HOST_ENTRY].count;
    struct edge_image_host_entry *entries;

    if (table == NULL)
        return builder_no_memory(builder);
    *table = (struct edge_image_table){.first_entry = first, .mask = buckets - 1};
    BUILDER_TRY(append_entries(builder, buckets, UINT32_MAX));
    entries = entry_at(builder, first);
    for (uint32_t i = 0; i < builder->host_count; i++) {
        const struct host *host = builder->hosts[i];
        const struct slice name = builder_kept(builder, host->name);
        uint32_t at = host->hash & (buckets - 1);
        if (host->domain != domain->number || name.length == 0)
            continue;
        while (entries[at].name_length != 0)
            at = (at + 1) & (buckets - 1);
        entries[at].tag = (uint16_t)(host->hash >> 16);
        entries[at].name_length = (uint8_t)name.length;
        entries[at].wildcard = (uint8_t)host->wildcard;
        table->wildcards |= image_wildcard_bit(name, (uint8_t)host->wildcard);
        builder->section[EDGE_SECTION_HOST_ENTRY].origin[first + at] = host->routes[0]->number;
        builder->host_of_entry[first + at] = i + 1;
    }
    return EDGE_OK;
}

static int lay_any_hosts(struct edge_builder *builder)
{
    for (uint32_t d = 0; d < builder->domain_count; d++) {
        const uint32_t index = builder->section[EDGE_SECTION_HOST_ENTRY].count;
        const uint32_t host = builder->domain[d].any_host;
        if (host == 0)
            continue;
        BUILDER_TRY(append_entries(builder, 1, builder->hosts[host - 1]->routes[0]->number));
        builder->host_of_entry[index] = host;
        ((struct edge_image_table *)(void *)builder->section[EDGE_SECTION_HOST_TABLE].bytes)[d]
            .fallback = index + 1;
    }
    return EDGE_OK;
}

static int lay_host(struct edge_builder *builder, const struct host *host, uint32_t index)
{
    const uint32_t first = builder->section[EDGE_SECTION_ROUTE].count;
    const uint32_t *next = builder_chains(builder, host->list);
    struct edge_text name;
    uint32_t paths;

    /* The name stands beside the texts of its routes: a request reads both. */
    BUILDER_TRY(builder_place(builder, host->name, &name));
    for (uint32_t i = 0; i < host->count; i++)
        BUILDER_TRY(builder_lay_route(builder, host->routes[i], next[i]));
    BUILDER_TRY(builder_lay_paths(builder, host, first, &paths));
    entry_at(builder, index)->name_offset = name.offset;
    entry_at(builder, index)->first_route = first;
    entry_at(builder, index)->path_index = paths;
    return EDGE_OK;
}

int builder_lay_hosts(struct edge_builder *builder)
{
    for (uint32_t i = 0; i < builder->host_count; i++) {
        const struct host *host = builder->hosts[i];
        struct domain *domain;
        BUILDER_TRY(builder_domain(builder, (struct item){.number = host->routes[0]->number},
                                   host->domain, &domain));
        if (builder->texts.at[host->name].length == 0)
            domain->any_host = i + 1;
        else
            domain->host_names++;
    }
    for (uint32_t d = 0; d < builder->domain_count; d++)
        BUILDER_TRY(lay_host_table(builder, &builder->domain[d]));
    BUILDER_TRY(lay_any_hosts(builder));
    for (uint32_t i = 0; i < builder->section[EDGE_SECTION_HOST_ENTRY].count; i++)
        if (builder->host_of_entry[i] != 0)
            BUILDER_TRY(lay_host(builder, builder->hosts[builder->host_of_entry[i] - 1], i));
    return EDGE_OK;
}
