/* Request -> route, and the story of how: see matcher.h and edge_image_explain in edge.h.
 *
 * Called by workers and, through cffi, by `edge explain`: both run the same functions. */
#include "match/matcher.h"

#include "match/host.h"
#include "match/path.h"

int32_t match_listener(const struct image *image, uint32_t slot)
{
    for (uint32_t i = 0; i < image->count[EDGE_SECTION_LISTENER]; i++)
        if (image->listeners[i].slot == slot)
            return (int32_t)i;
    return -1;
}

static bool matches(const struct image *image, const struct edge_image_route *route,
                    struct slice path)
{
    return path_match(route->path_type, image_text(image, route->path), path);
}

/* The first by precedence; -1: none. */
static int32_t first_match(const struct image *image, const struct edge_image_host_entry *entry,
                           struct slice path)
{
    for (uint32_t i = 0; i < entry->route_count; i++)
        if (matches(image, &image->routes[entry->first_route + i], path))
            return (int32_t)(entry->first_route + i);
    return -1;
}

/* The "/" prefix among the routes for any host: it takes what no path of a known host does. */
static int32_t default_route(const struct image *image, const struct edge_image_table *table,
                             struct slice path)
{
    const struct edge_image_host_entry *entry;

    if (table->fallback == 0)
        return -1;
    entry = &image->host_entries[table->fallback - 1];
    for (uint32_t i = 0; i < entry->route_count; i++) {
        const struct edge_image_route *route = &image->routes[entry->first_route + i];
        if (route->path_type == EDGE_PATH_PREFIX && route->path.length == 1 &&
            matches(image, route, path))
            return (int32_t)(entry->first_route + i);
    }
    return -1;
}

static const struct edge_image_table *host_table(const struct image *image, uint32_t listener)
{
    return &image->host_tables[image->listeners[listener].host_table];
}

/* *host_entry: the entry that decided, -1: none. */
static int32_t route_for(const struct image *image, const struct edge_image_table *table,
                         const struct host_name *name, struct slice path, int32_t *host_entry)
{
    int32_t route;

    *host_entry = host_lookup(image, table, name);
    if (*host_entry < 0)
        return -1;
    route = first_match(image, &image->host_entries[*host_entry], path);
    if (route >= 0 || *host_entry == (int32_t)table->fallback - 1)
        return route;
    return default_route(image, table, path);
}

int32_t match_route(const struct image *image, uint32_t listener, struct slice host,
                    struct slice path)
{
    struct host_name name;
    int32_t host_entry;

    if (host_normalise(host, &name) != HOST_OK)
        return -1;
    return route_for(image, host_table(image, listener), &name, path, &host_entry);
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

static void add(struct edge_explanation *out, struct edge_candidate *candidates, size_t max,
                int32_t route, uint32_t verdict)
{
    if (out->candidate_count < max)
        candidates[out->candidate_count++] =
            (struct edge_candidate){.route = (uint32_t)route, .verdict = verdict};
}

static void add_entry(const struct image *image, struct edge_explanation *out,
                      struct edge_candidate *candidates, size_t max, int32_t host_entry,
                      struct slice path)
{
    const struct edge_image_host_entry *entry = &image->host_entries[host_entry];

    for (uint32_t i = 0; i < entry->route_count; i++) {
        int32_t route = (int32_t)(entry->first_route + i);
        uint32_t verdict = route == out->route                           ? EDGE_VERDICT_WON
                           : matches(image, &image->routes[route], path) ? EDGE_VERDICT_SHADOWED
                                                                         : EDGE_VERDICT_PATH;
        add(out, candidates, max, route, verdict);
    }
}

int edge_image_explain(const uint8_t *bytes, size_t size, uint32_t listener, const char *host,
                       size_t host_length, const char *path, size_t path_length,
                       struct edge_candidate *candidates, size_t candidates_max,
                       struct edge_explanation *out)
{
    struct slice target = {path, path_length};
    const struct edge_image_table *table;
    struct host_name name;
    struct image image;

    if (size < sizeof(struct edge_image_header))
        return EDGE_ERR_TRUNCATED;
    image_open(&image, bytes);
    if (listener >= image.count[EDGE_SECTION_LISTENER])
        return EDGE_ERR_REFERENCE;
    if (host_normalise((struct slice){host, host_length}, &name) != HOST_OK)
        return EDGE_ERR_INVALID;
    if (path_length == 0 || (path[0] != '/' && !slice_equal(target, SLICE("*"))))
        return EDGE_ERR_INVALID;
    for (size_t i = 0; i < path_length; i++)
        if ((unsigned char)path[i] <= ' ' || path[i] == 0x7f || path[i] == '?' || path[i] == '#')
            return EDGE_ERR_INVALID;
    table = host_table(&image, listener);
    *out = (struct edge_explanation){.listener = listener};
    out->route = route_for(&image, table, &name, target, &out->host_entry);
    if (out->host_entry >= 0)
        add_entry(&image, out, candidates, candidates_max, out->host_entry, target);
    /* A default that stepped in stands behind the host's own routes, which all failed. */
    if (out->route >= 0) {
        const struct edge_image_host_entry *entry = &image.host_entries[out->host_entry];
        if ((uint32_t)out->route - entry->first_route >= entry->route_count)
            add(out, candidates, candidates_max, out->route, EDGE_VERDICT_WON);
    }
    return EDGE_OK;
}
