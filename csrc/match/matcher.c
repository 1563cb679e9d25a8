/* Request -> route: see matcher.h.
 *
 * Called by workers and, through explain.c, by `edge explain`: both run the same functions. */
#include "match/matcher.h"

#include "match/paths.h"

int32_t match_listener(const struct image *image, uint32_t slot)
{
    for (uint32_t i = 0; i < image->count[EDGE_SECTION_LISTENER]; i++)
        if (image->listeners[i].slot == slot)
            return (int32_t)i;
    return -1;
}

static const struct edge_image_table *host_table(const struct image *image, uint32_t listener)
{
    return &image->host_tables[image->listeners[listener].host_table];
}

/* What no path of a known host takes: the "/" prefix among the routes for any host. */
static int32_t default_route(const struct image *image, const struct edge_image_table *table,
                             const struct match_request *request)
{
    if (table->fallback == 0)
        return -1;
    return paths_match_root(image, &image->host_entries[table->fallback - 1], request);
}

static bool falls_through(const struct image *image, const struct edge_image_host_entry *host)
{
    return image->path_indexes[host->path_index].flags & EDGE_PATHS_FALL_THROUGH;
}

static int32_t route_for(const struct image *image, const struct edge_image_table *table,
                         const struct host_name *name, const struct match_request *request)
{
    struct host_search search;
    int32_t index;

    host_search_init(&search, image, table, name);
    while ((index = host_search_next(&search)) >= 0) {
        const struct edge_image_host_entry *host = &image->host_entries[index];
        int32_t route = paths_match(image, host, request);
        if (route >= 0)
            return route;
        if (!falls_through(image, host))
            return index == (int32_t)table->fallback - 1 ? -1
                                                         : default_route(image, table, request);
    }
    return -1;
}

struct match_hint match_expect(const struct image *image, uint32_t listener, struct slice host)
{
    struct host_name name;

    if (host_normalise(host, &name) != HOST_OK || name.length == 0)
        return (struct match_hint){0};
    return (struct match_hint){image, host_expect(image, host_table(image, listener), &name)};
}

void match_expect_more(const struct match_hint *hint)
{
    if (hint->image != NULL)
        host_expect_more(hint->image, hint->host);
}

int32_t match_route(const struct image *image, uint32_t listener,
                    const struct match_request *request)
{
    struct host_name name;

    if (host_normalise(request->host, &name) != HOST_OK)
        return -1;
    return route_for(image, host_table(image, listener), &name, request);
}

int32_t match_certificate(const struct image *image, uint32_t listener, struct slice name)
{
    uint32_t sni_table = image->listeners[listener].sni_table;
    const struct edge_image_table *table;
    struct host_name normal;
    int32_t index;

    if (sni_table == 0)
        return -1;
    table = &image->sni_tables[sni_table - 1];
    if (host_normalise(name, &normal) != HOST_OK)
        return -1;
    index = host_lookup_server_name(image, table, &normal);
    if (index < 0)
        return (int32_t)table->fallback - 1;
    if (image->sni_entries[index].action != EDGE_SNI_TERMINATE)
        return -1;
    return (int32_t)image->sni_entries[index].certificate;
}
