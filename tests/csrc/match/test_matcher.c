/* Requests to routes in one image, and the explanation of each.
 *
 * links: base/error.c base/hash.c base/pattern.c snapshot/build.c snapshot/builder.c
 *  snapshot/build_hosts.c snapshot/build_names.c snapshot/build_paths.c snapshot/build_routes.c
 *  snapshot/build_upstreams.c snapshot/atoms.c
 *  snapshot/check.c snapshot/check_names.c snapshot/check_paths.c snapshot/check_routes.c
 *  snapshot/image.c snapshot/path_index.c match/explain.c match/fields.c match/host.c match/path.c
 *  match/paths.c match/patterns.c */
#include "match/matcher.c"

#include "match/patterns.h"

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
    {"b.example", "/text", 10},
    {"b.example", "/t", 5},
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

static void test_names_that_are_rejected(struct fixture *f)
{
    struct edge_image built;
    struct image image;

    fixture_everything(f);
    fixture_certificate(f, 0, "b.example", EDGE_CERTIFICATE_REJECT);
    built = fixture_build(f, EDGE_IMAGE_FULL, 3, 0);
    image_open(&image, built.bytes);
    IS(image.count[EDGE_SECTION_CERTIFICATE], 2, "there is no certificate");
    IS(match_certificate(&image, 1, SLICE("b.example")), -1,
       "neither a wildcard's nor the default");
    IS(match_certificate(&image, 1, SLICE("c.example")), 1, "the wildcard's for others");
    edge_image_free(&built);
}

static int explain(const struct edge_image *built, uint32_t listener, struct slice host,
                   struct slice path, struct edge_candidate *candidates,
                   struct edge_explanation *out)
{
    const struct edge_request request = {
        .listener = listener, .host = {host.at, host.length}, .path = {path.at, path.length}};
    return edge_image_explain(built->bytes, built->size, &request, candidates, 8, out);
}

static void test_explain(const struct edge_image *built)
{
    struct edge_candidate candidates[8];
    struct edge_explanation out;

    IS(explain(built, 0, SLICE("a.example"), SLICE("/foo"), candidates, &out), EDGE_OK,
       "explained");
    IS(out.candidate_count, 4, "four candidates");
    IS(candidates[0].verdict, EDGE_VERDICT_TIME, "not valid now");
    IS(candidates[1].verdict, EDGE_VERDICT_WON, "exact won");
    IS(candidates[2].verdict, EDGE_VERDICT_SHADOWED, "prefix shadowed");
    IS(explain(built, 0, SLICE("b.example"), SLICE("/"), candidates, &out), EDGE_OK, "default");
    IS(out.candidate_count, 3, "its own routes, and the default");
    IS(candidates[0].verdict, EDGE_VERDICT_PATH, "path does not match");
    IS(candidates[2].verdict, EDGE_VERDICT_WON, "the default won");
    IS(explain(built, 9, SLICE("b"), SLICE("/"), candidates, &out), EDGE_ERR_REFERENCE,
       "no such listener");
    IS(explain(built, 0, SLICE("b c"), SLICE("/"), candidates, &out), EDGE_ERR_INVALID, "no host");
    IS(explain(built, 0, SLICE("b"), SLICE("a"), candidates, &out), EDGE_ERR_INVALID, "no path");
}

static void test_conditions(struct image *image)
{
    static const struct h1_field canary[] = {{.name = SLICE("X-Canary"), .value = SLICE("always")},
                                             {.name = SLICE("Version"), .value = SLICE("v7")},
                                             {.name = SLICE("x-canary"), .value = SLICE("2")}};
    const struct match_request whole = {.host = SLICE("a.example"),
                                        .path = SLICE("/foo"),
                                        .query = SLICE("x=1&%61=%62"),
                                        .method = SLICE("POST"),
                                        .fields = canary,
                                        .field_count = 3,
                                        .now_s = 1500};
    struct match_request request = whole;
    struct pattern_set *compiled;
    struct edge_error err;

    IS(pattern_set_create(image, NULL, &compiled, &err), EDGE_OK, "expressions");
    image->compiled = compiled;
#define SLOT() ((int)image->routes[match_route(image, 0, &request)].slot)
    IS(SLOT(), 7, "all conditions hold");
    request.now_s = 999;
    IS(SLOT(), 2, "too early");
    request.now_s = 2001;
    IS(SLOT(), 2, "too late");
    request = whole;
    request.method = SLICE("post");
    IS(SLOT(), 2, "another method");
    request = whole;
    request.field_count = 2;
    IS(SLOT(), 2, "another value of a header");
    request = whole;
    request.query = SLICE("a=c&a=b");
    IS(SLOT(), 2, "the first parameter of a name counts");
    request = whole;
    request.host = SLICE("x.y.suffix.test");
    IS(SLOT(), 8, "labels before a suffix");
    request.path = SLICE("/wild");
    IS(SLOT(), 5, "what falls through comes to any host");
    request.path = SLICE("/re/123");
    IS(SLOT(), 9, "an expression");
    request.path = SLICE("/re/1234");
    IS(SLOT(), 5, "an expression is for the whole path");
    request.host = SLICE("suffix.test");
    IS(SLOT(), 5, "a suffix alone is not matched");
    pattern_set_release(compiled);
    image->compiled = NULL;
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
        struct match_request request = {.host = host, .path = path, .method = SLICE("GET")};
        int32_t route = match_route(&image, 0, &request);
        IS(route < 0 ? -1 : (int)image.routes[route].slot, cases[i].slot, "\"%s\" %s",
           cases[i].host, cases[i].path);
    }
    test_conditions(&image);
    test_certificates(&image);
    test_explain(&built);
    edge_image_free(&built);
    test_names_that_are_rejected(&f);
    return tap_done();
}
