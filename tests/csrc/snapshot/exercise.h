/* Does with an accepted image everything that the data plane may: the check promised that it can.
 *
 * Used by the mutation test and the fuzzer, under sanitizers: a read outside is the failure. */
#ifndef TESTS_SNAPSHOT_EXERCISE_H
#define TESTS_SNAPSHOT_EXERCISE_H

#include "match/matcher.h"
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
    exercise_text(image, route->kind);
    exercise_text(image, route->object_namespace);
    exercise_text(image, route->object_name);
    exercise_text(image, route->path_written);
    exercise_text(image, route->service);
    for (uint32_t i = 0; i < route->filter_count; i++)
        exercise_sink += image->filters[route->first_filter + i].argument;
    for (uint32_t i = 0; i < route->reference_count; i++)
        exercise_sink += image->references[route->first_reference + i].weight;
}

static inline void exercise_listener(const struct image *image, const uint8_t *bytes, size_t size,
                                     uint32_t index)
{
    static const struct slice hosts[] = {SLICE(""),          SLICE("a.example"),
                                         SLICE("B.Example"), SLICE("x.example:80"),
                                         SLICE("[::1]"),     SLICE("far.away.test.")};
    static const struct slice paths[] = {SLICE("/"), SLICE("/foo"), SLICE("/foo/bar"),
                                         SLICE("/any"), SLICE("/wild/x")};
    const struct edge_image_listener *listener = &image->listeners[index];

    exercise_sink += (uint64_t)match_listener(image, listener->slot);
    for (uint32_t i = 0; i < listener->trusted_count; i++)
        exercise_sink += image->prefixes[listener->first_trusted + i].bits;
    for (size_t h = 0; h < sizeof(hosts) / sizeof(hosts[0]); h++) {
        int32_t certificate = match_certificate(image, index, hosts[h]);
        if (certificate >= 0)
            exercise_sink += image->certificates[certificate].digest[31];
        for (size_t p = 0; p < sizeof(paths) / sizeof(paths[0]); p++) {
            int32_t route = match_route(image, index, hosts[h], paths[p]);
            struct edge_candidate candidates[4];
            struct edge_explanation explanation;
            if (route >= 0)
                exercise_route(image, &image->routes[route]);
            if (edge_image_explain(bytes, size, index, hosts[h].at, hosts[h].length, paths[p].at,
                                   paths[p].length, candidates, 4, &explanation) != EDGE_OK ||
                explanation.route != route)
                __builtin_trap();
        }
    }
}

static inline void exercise_image(const uint8_t *bytes, size_t size)
{
    struct image image;

    image_open(&image, bytes);
    exercise_upstreams(&image);
    for (uint32_t i = 0; i < image.count[EDGE_SECTION_ROUTE]; i++)
        exercise_route(&image, &image.routes[i]);
    for (uint32_t i = 0; i < image.count[EDGE_SECTION_HOST_ENTRY]; i++)
        exercise_text(&image, image.host_entries[i].name);
    for (uint32_t i = 0; i < image.count[EDGE_SECTION_LISTENER]; i++)
        exercise_listener(&image, bytes, size, i);
}

#endif
