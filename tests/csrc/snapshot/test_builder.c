/* A builder that keeps its objects: whatever came and went, the bytes are those of a build from
 * nothing.
 *
 * links: base/arena.c base/error.c base/hash.c snapshot/build_hosts.c
 *  snapshot/build_names.c snapshot/build_paths.c snapshot/build_routes.c snapshot/build_upstreams.c
 *  snapshot/builder.c snapshot/check.c snapshot/check_names.c snapshot/check_paths.c
 *  snapshot/check_routes.c snapshot/image.c snapshot/path_index.c snapshot/atoms.c */
#include "snapshot/build.c"

#include "snapshot/fixture.h"
#include "tap.h"

#define SLOTS 48

static struct fixture f;
static uint32_t seed = 1;

static uint32_t chance(uint32_t below)
{
    seed = seed * 1664525 + 1013904223;
    return (seed >> 8) % below;
}

/* What is there, as fragments; an empty place: nothing. */
struct world {
    struct fixture route[SLOTS];
    struct fixture upstream[2], endpoints[2];
    struct fixture certificates;
};

static void random_route(struct fixture *route, uint32_t slot)
{
    static const char *hosts[] = {"a.test", "b.test", "c.test", "", ".test", ".b.test"};
    static const char *paths[] = {"/", "/a", "/a/", "/a/b", "/b/c/d", "/ab"};
    const char *host = hosts[chance(6)], *path = paths[chance(6)];
    const uint32_t kind = chance(10);

    route->used = 0;
    if (kind == 0)
        fixture_conditional(route, slot, chance(3), host[0] == '\0' ? "a.test" : host,
                            EDGE_PATH_PREFIX, path);
    else if (kind == 1)
        fixture_conditional(route, slot, chance(3), host[0] == '\0' ? "a.test" : host,
                            EDGE_PATH_REGEX, "/re/[0-9]{3}");
    else
        fixture_route(route, slot, chance(3), host,
                      kind < 4   ? EDGE_PATH_EXACT
                      : kind < 5 ? EDGE_PATH_STRING_PREFIX
                                 : EDGE_PATH_PREFIX,
                      path);
}

static void join(struct fixture *all, const struct fixture *one)
{
    memcpy(all->bytes + all->used, one->bytes, one->used);
    all->used += one->used;
}

static struct edge_image from_nothing(const struct world *world)
{
    f.used = 0;
    for (int i = 1; i >= 0; i--) {
        join(&f, &world->upstream[i]);
        join(&f, &world->endpoints[i]);
    }
    for (int i = SLOTS - 1; i >= 0; i--)
        join(&f, &world->route[i]);
    join(&f, &world->certificates);
    return fixture_build(&f, EDGE_IMAGE_FULL, 1, 0);
}

static void replace(struct edge_builder *builder, uint32_t kind, uint32_t slot,
                    const struct fixture *fresh)
{
    struct edge_error err = {0};

    edge_builder_drop(builder, kind, slot);
    if (fresh->used > 0 && edge_builder_put(builder, fresh->bytes, fresh->used, &err) != EDGE_OK)
        OK(false, "%u in slot %u: %s %s", kind, slot, err.field, err.reason);
}

static void step(struct edge_builder *builder, struct world *world)
{
    const uint32_t what = chance(20), slot = chance(SLOTS), upstream = chance(2);

    if (what == 0) {
        world->certificates.used = 0;
        for (uint32_t i = 0; i < chance(3); i++)
            fixture_certificate(&world->certificates, (uint8_t)i, chance(2) ? "a.test" : ".test",
                                0);
        replace(builder, EDGE_FRAGMENT_CERTIFICATE, 0, &world->certificates);
    } else if (what < 4) {
        world->endpoints[upstream].used = 0;
        if (chance(4) > 0)
            fixture_endpoints(&world->endpoints[upstream], upstream == 0 ? 0 : 7, chance(4),
                              (uint16_t)(1 + chance(9)));
        replace(builder, EDGE_FRAGMENT_ENDPOINTS, upstream == 0 ? 0 : 7,
                &world->endpoints[upstream]);
    } else if (what < 8) {
        world->route[slot].used = 0;
        replace(builder, EDGE_FRAGMENT_ROUTE, slot, &world->route[slot]);
    } else {
        random_route(&world->route[slot], slot);
        replace(builder, EDGE_FRAGMENT_ROUTE, slot, &world->route[slot]);
    }
}

/* Each is found without a walk over its host's, which would be quadratic when many go. */
static uint32_t misplaced(const struct edge_builder *builder)
{
    uint32_t wrong = 0;

    for (uint32_t slot = 0; slot < builder->route_slots; slot++) {
        const struct route *route = builder->routes[slot];
        wrong += route != NULL &&
                 (route->place >= route->host->count || route->host->routes[route->place] != route);
    }
    return wrong;
}

static void test_any_way_to_the_same_objects(void)
{
    static struct world world;
    struct edge_build_options options = {.kind = EDGE_IMAGE_FULL, .version = 1};
    struct edge_builder *builder;
    struct edge_error err = {0};
    uint32_t same = 0, turns = 400, wrong = 0;

    IS(edge_builder_open(&builder), EDGE_OK, "a builder");
    for (uint32_t i = 0; i < 2; i++) {
        fixture_upstream(&world.upstream[i], i == 0 ? 0 : 7);
        replace(builder, EDGE_FRAGMENT_UPSTREAM, i == 0 ? 0 : 7, &world.upstream[i]);
    }
    for (uint32_t turn = 0; turn < turns; turn++) {
        struct edge_image kept = {0}, fresh;
        for (uint32_t i = chance(12); i > 0; i--)
            step(builder, &world);
        wrong += misplaced(builder);
        fresh = from_nothing(&world);
        if (edge_builder_image(builder, &options, &kept, &err) == EDGE_OK)
            same += kept.size == fresh.size && memcmp(kept.bytes, fresh.bytes, kept.size) == 0;
        edge_image_free(&fresh);
        wrong += misplaced(builder);
    }
    IS(wrong, 0, "each route knows its place");
    IS(same, turns, "%u of %u images are the bytes of a build from nothing", same, turns);
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        edge_builder_drop(builder, EDGE_FRAGMENT_ROUTE, slot);
    edge_builder_drop(builder, EDGE_FRAGMENT_CERTIFICATE, 0);
    for (uint32_t slot = 0; slot < 8; slot += 7) {
        edge_builder_drop(builder, EDGE_FRAGMENT_ENDPOINTS, slot);
        edge_builder_drop(builder, EDGE_FRAGMENT_UPSTREAM, slot);
    }
    IS(edge_builder_image(builder, &options, &(struct edge_image){0}, &err), EDGE_OK,
       "an empty one");
    OK(builder->texts.used + builder->objects.used + builder->actions.used +
               builder->conditions.used + builder->lists.used + builder->host_keys.used ==
           0,
       "nothing is kept of what has gone");
    edge_builder_close(builder);
}

static void test_refusals_name_kind_and_slot(void)
{
    struct edge_build_options options = {.kind = EDGE_IMAGE_FULL, .version = 1};
    struct edge_image out;
    struct edge_builder *builder;
    struct edge_error err = {0};

    fixture_everything(&f);
    IS(edge_builder_open(&builder), EDGE_OK, "a builder");
    IS(edge_builder_put(builder, f.bytes, f.used, &err), EDGE_OK, "everything");
    f.used = 0;
    fixture_route(&f, 21, 1, "c.example", EDGE_PATH_PREFIX, "nothing");
    IS(edge_builder_put(builder, f.bytes, f.used, &err), EDGE_OK, "and a path without a slash");
    IS(edge_builder_image(builder, &options, &out, &err), EDGE_ERR_INVALID, "is refused");
    OK(out.bytes == NULL, "without an image");
    IS(err.index, edge_builder_number(EDGE_FRAGMENT_ROUTE, 21), "by its number");
    edge_builder_close(builder);

    IS(edge_builder_open(&builder), EDGE_OK, "another");
    f.used = 0;
    fixture_certificate(&f, 0, "a.example", EDGE_CERTIFICATE_NAMED);
    fixture_certificate(&f, 1, "", EDGE_CERTIFICATE_NAMED);
    IS(edge_builder_put(builder, f.bytes, f.used, &err), EDGE_ERR_INVALID, "an empty name");
    IS(err.index, edge_builder_number(EDGE_FRAGMENT_CERTIFICATE, 1), "by its place");
    edge_builder_close(builder);
    edge_builder_close(NULL);
}

int main(void)
{
    test_any_way_to_the_same_objects();
    test_refusals_name_kind_and_slot();
    return tap_done();
}
