/* Does with an accepted image everything that the data plane may: the check promised that it can.
 *
 * Used by the mutation test and the fuzzer, under sanitizers: a read outside is the failure. */
#ifndef TESTS_SNAPSHOT_EXERCISE_H
#define TESTS_SNAPSHOT_EXERCISE_H

#include "match/matcher.h"
#include "match/patterns.h"
#include "snapshot/image.h"

static volatile uint64_t exercise_sink;

static inline void exercise_text(const struct image *image, struct edge_text text)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < text.length; i++)
        sum += (unsigned char)image->text[text.offset + i];
    exercise_sink += sum;
}

static inline void exercise_upstreams(const struct image *image)
{
    for (uint32_t i = 0; i < image->count[EDGE_SECTION_UPSTREAM]; i++) {
        const struct edge_image_upstream *upstream = &image->upstreams[i];
        exercise_text(image, upstream->name);
        for (uint32_t k = 0; k < upstream->endpoint_count; k++) {
            exercise_sink += image->endpoints[upstream->first_endpoint + k].port;
            exercise_text(image, image->endpoints[upstream->first_endpoint + k].zone);
        }
    }
}

static inline void exercise_route(const struct image *image, const struct edge_image_route *route)
{
    exercise_text(image, route->path);
    const struct edge_image_object *object = image_object(image, route);
    const struct edge_image_action *action = image_action(image, route);
    exercise_text(image, object->kind);
    exercise_text(image, object->object_namespace);
    exercise_text(image, object->object_name);
    exercise_text(image, route->path_written);
    exercise_text(image, action->service);
    for (uint32_t i = 0; i < action->filter_count; i++)
        exercise_sink += image->filters[action->first_filter + i].argument;
    for (uint32_t i = 0; i < action->reference_count; i++)
        exercise_sink += image->references[action->first_reference + i].weight;
}

/* The workers' way and the way of an explanation come to the same. */
static inline void exercise_request(const struct image *image, const uint8_t *bytes, size_t size,
                                    uint32_t listener, struct slice host, struct slice path)
{
    static const struct edge_request_field fields[] = {{{"X-Canary", 8}, {"always", 6}},
                                                       {{"x-canary", 8}, {"2", 1}},
                                                       {{"Version", 7}, {"v12", 3}}};
    static const struct h1_field same[] = {{.name = SLICE("X-Canary"), .value = SLICE("always")},
                                           {.name = SLICE("x-canary"), .value = SLICE("2")},
                                           {.name = SLICE("Version"), .value = SLICE("v12")}};
    const struct edge_request request = {.listener = listener,
                                         .field_count = 3,
                                         .host = {host.at, host.length},
                                         .path = {path.at, path.length},
                                         .query = {"a=%62&c+d=e", 11},
                                         .method = {"POST", 4},
                                         .fields = fields,
                                         .now_s = 1500};
    const struct match_request worker = {.host = host,
                                         .path = path,
                                         .query = SLICE("a=%62&c+d=e"),
                                         .method = SLICE("POST"),
                                         .fields = same,
                                         .field_count = 3,
                                         .now_s = 1500};
    struct edge_candidate candidates[4];
    struct edge_explanation explanation;
    int32_t route = match_route(image, listener, &worker), again;
    int rc = edge_image_explain(bytes, size, &request, candidates, 4, &explanation);

    if (route >= 0)
        exercise_route(image, &image->routes[route]);
    if (image->count[EDGE_SECTION_PATTERN] > 0 && image->compiled == NULL)
        return; /* an expression that cannot be compiled; whoever prepares refuses the image */
    if (rc != EDGE_OK || explanation.route != route ||
        edge_image_match(bytes, size, &request, 1, &again) != EDGE_OK || again != route)
        __builtin_trap();
}

static inline void exercise_listener(const struct image *image, const uint8_t *bytes, size_t size,
                                     uint32_t index)
{
    static const struct slice hosts[] = {
        SLICE(""),      SLICE("a.example"),      SLICE("B.Example"),    SLICE("x.example:80"),
        SLICE("[::1]"), SLICE("far.away.test."), SLICE("m.suffix.test")};
    static const struct slice paths[] = {SLICE("/"),    SLICE("/foo"),    SLICE("/foo/bar"),
                                         SLICE("/any"), SLICE("/wild/x"), SLICE("/re/123")};
    const struct edge_image_listener *listener = &image->listeners[index];

    exercise_sink += (uint64_t)match_listener(image, listener->slot);
    for (uint32_t i = 0; i < listener->trusted_count; i++)
        exercise_sink += image->prefixes[listener->first_trusted + i].bits;
    for (size_t h = 0; h < sizeof(hosts) / sizeof(hosts[0]); h++) {
        int32_t certificate = match_certificate(image, index, hosts[h]);
        if (certificate >= 0)
            exercise_sink += image->certificates[certificate].digest[31];
        for (size_t p = 0; p < sizeof(paths) / sizeof(paths[0]); p++) {
            exercise_request(image, bytes, size, index, hosts[h], paths[p]);
        }
    }
}

static inline void exercise_image(const uint8_t *bytes, size_t size)
{
    struct pattern_set *compiled;
    struct image image;

    image_open(&image, bytes);
    pattern_set_create(&image, NULL, &compiled, NULL);
    image.compiled = compiled;
    exercise_upstreams(&image);
    for (uint32_t i = 0; i < image.count[EDGE_SECTION_ROUTE]; i++)
        exercise_route(&image, &image.routes[i]);
    for (uint32_t i = 0; i < image.count[EDGE_SECTION_HOST_ENTRY]; i++)
        exercise_sink += edge_text_hash(image_host_name(&image, &image.host_entries[i]).at,
                                        image.host_entries[i].name_length);
    for (uint32_t i = 0; i < image.count[EDGE_SECTION_LISTENER]; i++)
        exercise_listener(&image, bytes, size, i);
    pattern_set_release(compiled);
}

#endif
