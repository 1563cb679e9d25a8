/* Requests to routes in one image, and the explanation of each.
 *
 * links: base/error.c base/hash.c snapshot/build.c snapshot/builder.c snapshot/build_hosts.c
 *  snapshot/check.c snapshot/image.c match/host.c match/path.c */
#include "match/matcher.c"

#include "snapshot/fixture.h"
#include "tap.h"

static const struct {
    const char *host, *path;
    int slot; /* of the route, -1: none */
} cases[] = {
    {"a.example", "/", 0},
    {"a.example", "/foo", 2},
    {"a.example", "/foo/", 1},
    {"a.example", "/foobar", 0},
    {"A.EXAMPLE:80", "/foo/x", 1},
    {"a.example.", "/foo/x", 1},
    {"b.example", "/foo/bar", 3},
    {"b.example", "/wild", 5}, /* the exact host decides alone, then the default */
    {"b.example", "/any", 5},  /* the default is the "/" prefix only */
    {"c.example", "/wild/x", 4},
    {"x.c.example", "/wild", 5}, /* a wildcard is one label */
    {"example", "/wild", 5},
    {"other.test", "/any", 6},
    {"other.test", "/any/", 5},
    {"", "/", 5},
    {"a example", "/", -1},
    {"a.example", "*", -1},
};

static void test_certificates(const struct image *image)
{
    IS(match_certificate(image, 0, SLICE("a.example")), -1, "a plain listener has none");
    IS(match_certificate(image, 1, SLICE("a.example")), 0, "exact");
    IS(match_certificate(image, 1, SLICE("B.example")), 1, "wildcard");
    IS(match_certificate(image, 1, SLICE("b.b.example")), 0, "the default");
    IS(match_certificate(image, 1, SLICE("")), 0, "no server name: the default");
}

static void test_explain(const struct edge_image *built)
{
    struct edge_candidate candidates[8];
    struct edge_explanation out;

    IS(edge_image_explain(built->bytes, built->size, 0, "a.example", 9, "/foo", 4, candidates, 8,
                          &out),
       EDGE_OK, "explained");
    IS(out.candidate_count, 3, "three candidates");
    IS(candidates[0].verdict, EDGE_VERDICT_WON, "exact won");
    IS(candidates[1].verdict, EDGE_VERDICT_SHADOWED, "prefix shadowed");
    IS(edge_image_explain(built->bytes, built->size, 0, "b.example", 9, "/", 1, candidates, 8,
                          &out),
       EDGE_OK, "default");
    IS(out.candidate_count, 2, "its own route, and the default");
    IS(candidates[0].verdict, EDGE_VERDICT_PATH, "path does not match");
    IS(candidates[1].verdict, EDGE_VERDICT_WON, "the default won");
    IS(edge_image_explain(built->bytes, built->size, 9, "b", 1, "/", 1, candidates, 8, &out),
       EDGE_ERR_REFERENCE, "no such listener");
    IS(edge_image_explain(built->bytes, built->size, 0, "b c", 3, "/", 1, candidates, 8, &out),
       EDGE_ERR_INVALID, "no host");
    IS(edge_image_explain(built->bytes, built->size, 0, "b", 1, "a", 1, candidates, 8, &out),
       EDGE_ERR_INVALID, "no path");
}

int main(void)
{
    static struct fixture f;
    struct edge_image built;
    struct image image;

    fixture_everything(&f);
    built = fixture_build(&f, EDGE_IMAGE_FULL, 3, 0);
    image_open(&image, built.bytes);
    IS(match_listener(&image, 1), 1, "listener by slot");
    IS(match_listener(&image, 2), -1, "no listener in that slot");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct slice host = {cases[i].host, strlen(cases[i].host)};
        struct slice path = {cases[i].path, strlen(cases[i].path)};
        int32_t route = match_route(&image, 0, host, path);
        IS(route < 0 ? -1 : (int)image.routes[route].slot, cases[i].slot, "\"%s\" %s",
           cases[i].host, cases[i].path);
    }
    test_certificates(&image);
    test_explain(&built);
    edge_image_free(&built);
    return tap_done();
}
