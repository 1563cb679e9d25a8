/* The story of a match, and matches of many requests: edge_image_explain, edge_image_match.
 *
 * Called through cffi by `edge explain`, the admin server and tests. The winner is match_route()'s;
 * then every route of every host that was tried is looked at by itself. */
#include "match/host.h"
#include "match/matcher.h"
#include "match/paths.h"
#include "match/patterns.h"

/* Room for the fields of one request. */
struct asked {
    struct match_request request;
    struct h1_field fields[H1_FIELDS_MAX];
};

static struct slice slice_of(struct edge_bytes bytes)
{
    return (struct slice){bytes.at, bytes.length};
}

static bool path_valid(struct slice path)
{
    if (path.length == 0 || (path.at[0] != '/' && !slice_equal(path, SLICE("*"))))
        return false;
    for (size_t i = 0; i < path.length; i++)
        if ((unsigned char)path.at[i] <= ' ' || path.at[i] == 0x7f || path.at[i] == '?' ||
            path.at[i] == '#')
            return false;
    return true;
}

static int take(const struct image *image, const struct edge_request *given, struct asked *out)
{
    struct match_request *request = &out->request;

    if (given->listener >= image->count[EDGE_SECTION_LISTENER])
        return EDGE_ERR_REFERENCE;
    if (given->field_count > H1_FIELDS_MAX || !path_valid(slice_of(given->path)))
        return EDGE_ERR_INVALID;
    *request = (struct match_request){
        .host = slice_of(given->host),
        .path = slice_of(given->path),
        .query = slice_of(given->query),
        .method = given->method.length > 0 ? slice_of(given->method) : SLICE("GET"),
        .fields = out->fields,
        .field_count = given->field_count,
        .now_s = given->now_s,
    };
    for (uint32_t i = 0; i < given->field_count; i++)
        out->fields[i] = (struct h1_field){.name = slice_of(given->fields[i].name),
                                           .value = slice_of(given->fields[i].value)};
    return EDGE_OK;
}

static int open_image(struct image *image, const uint8_t *bytes, size_t size,
                      struct pattern_set **compiled)
{
    int rc;

    if (size < sizeof(struct edge_image_header))
        return EDGE_ERR_TRUNCATED;
    image_open(image, bytes);
    rc = pattern_set_create(image, NULL, compiled, NULL);
    image->compiled = *compiled;
    return rc;
}

static int match_all(const struct image *image, const struct edge_request *requests, size_t count,
                     int32_t *routes)
{
    struct asked asked;

    for (size_t i = 0; i < count; i++) {
        struct host_name name;
        int rc = take(image, &requests[i], &asked);
        if (rc != EDGE_OK)
            return rc;
        if (host_normalise(asked.request.host, &name) != HOST_OK)
            return EDGE_ERR_INVALID;
        routes[i] = match_route(image, requests[i].listener, &asked.request);
    }
    return EDGE_OK;
}

int edge_image_match(const uint8_t *bytes, size_t size, const struct edge_request *requests,
                     size_t count, int32_t *routes)
{
    struct pattern_set *compiled;
    struct image image;
    int rc = open_image(&image, bytes, size, &compiled);

    if (rc == EDGE_OK) {
        rc = match_all(&image, requests, count, routes);
        pattern_set_release(compiled);
    }
    return rc;
}

struct story {
    struct edge_explanation *out;
    struct edge_candidate *candidates;
    size_t max;
};

static void add(struct story *story, struct edge_candidate candidate)
{
    if (story->out->candidate_count < story->max)
        story->candidates[story->out->candidate_count++] = candidate;
}

/* Every route of the host entry; true: the winner is among them. */
static bool add_host(const struct image *image, struct story *story, uint32_t index,
                     const struct match_request *request)
{
    const struct edge_image_host_entry *host = &image->host_entries[index];
    const uint32_t count = image->path_indexes[host->path_index].route_count;
    bool won = false;

    for (uint32_t i = 0; i < count; i++) {
        struct edge_candidate it = {.route = host->first_route + i, .host_entry = index};
        uint32_t field = 0;
        it.verdict = paths_verdict(image, &image->routes[it.route], request, &field);
        if (it.verdict == EDGE_VERDICT_FIELD)
            it.field = field + 1;
        if ((int32_t)it.route == story->out->route) {
            it.verdict = EDGE_VERDICT_WON;
            won = true;
        }
        add(story, it);
    }
    return won;
}

static void tell(const struct image *image, struct story *story, const struct host_name *name,
                 const struct match_request *request)
{
    const struct edge_image_table *table =
        &image->host_tables[image->listeners[story->out->listener].host_table];
    const int32_t any_host = (int32_t)table->fallback - 1;
    struct edge_explanation *out = story->out;
    struct host_search search;
    bool told = out->route < 0;
    int32_t index;

    host_search_init(&search, image, table, name);
    while ((index = host_search_next(&search)) >= 0) {
        bool won = add_host(image, story, (uint32_t)index, request);
        if (out->host_entry < 0 || won)
            out->host_entry = index;
        told |= won;
        if (won || !(image->path_indexes[image->host_entries[index].path_index].flags &
                     EDGE_PATHS_FALL_THROUGH))
            break;
    }
    /* A default that stepped in stands behind the host's own routes, which all failed. */
    if (!told)
        add(story, (struct edge_candidate){.route = (uint32_t)out->route,
                                           .verdict = EDGE_VERDICT_WON,
                                           .host_entry = (uint32_t)any_host});
}

int edge_image_explain(const uint8_t *bytes, size_t size, const struct edge_request *request,
                       struct edge_candidate *candidates, size_t candidates_max,
                       struct edge_explanation *out)
{
    struct story story = {out, candidates, candidates_max};
    struct pattern_set *compiled;
    struct host_name name;
    struct asked asked;
    struct image image;
    int rc = open_image(&image, bytes, size, &compiled);

    if (rc != EDGE_OK)
        return rc;
    rc = take(&image, request, &asked);
    if (rc == EDGE_OK && host_normalise(asked.request.host, &name) != HOST_OK)
        rc = EDGE_ERR_INVALID;
    if (rc == EDGE_OK) {
        *out = (struct edge_explanation){.listener = request->listener, .host_entry = -1};
        out->route = match_route(&image, request->listener, &asked.request);
        tell(&image, &story, &name, &asked.request);
    }
    pattern_set_release(compiled);
    return rc;
}
