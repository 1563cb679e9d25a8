/* Fragments to an image: order of routes, tables, texts once, refusals that name a fragment.
 *
 * links: base/arena.c base/error.c base/hash.c snapshot/builder.c snapshot/build_hosts.c
 *  snapshot/build_names.c snapshot/build_paths.c snapshot/build_routes.c
 *  snapshot/build_upstreams.c snapshot/atoms.c snapshot/check.c
 *  snapshot/check_names.c snapshot/check_paths.c snapshot/check_routes.c snapshot/image.c
 *  snapshot/path_index.c
 * marks: slow */
#include "snapshot/build.c"

#include "snapshot/fixture.h"
#include "tap.h"

static struct fixture f;

static int refused(struct edge_error *err)
{
    struct edge_build_options options = {.kind = EDGE_IMAGE_FULL, .version = 1};
    struct edge_image out;
    int rc = edge_image_build(f.bytes, f.used, &options, &out, err);

    OK(rc < 0 && out.bytes == NULL, "refused without leaving an image");
    edge_image_free(&out);
    return rc;
}

static void test_everything(void)
{
    struct edge_image built;
    struct image image;

    fixture_everything(&f);
    built = fixture_build(&f, EDGE_IMAGE_FULL, 3, 0);
    image_open(&image, built.bytes);
    IS(image.header->version, 3, "version");
    IS(image.count[EDGE_SECTION_ROUTE], 11, "all routes");
    IS(image.count[EDGE_SECTION_HOST_TABLE], 1, "one domain, one host table");
    IS(image.count[EDGE_SECTION_HOST_ENTRY], 8 + 1, "3 names in 8 buckets, and any host");
    IS(image.count[EDGE_SECTION_CONDITION], 1, "the same condition of two routes is stored once");
    IS(image.count[EDGE_SECTION_UPSTREAM], 2, "upstreams");
    IS(image.count[EDGE_SECTION_ENDPOINT], 3, "endpoints");
    IS(image.upstreams[1].first_endpoint, 2, "endpoints by slot");
    IS(image.listeners[1].sni_table, 1, "the TLS listener has its names");
    for (uint32_t i = 0; i < image.count[EDGE_SECTION_HOST_ENTRY]; i++) {
        const struct edge_image_host_entry *host = &image.host_entries[i];
        if (!slice_equal(image_host_name(&image, host), SLICE("a.example")))
            continue;
        IS(image.path_indexes[host->path_index].route_count, 4, "routes of a host stand together");
        IS(image.routes[host->first_route].slot, 7, "best precedence first");
        IS(image.routes[host->first_route + 3].slot, 0, "worst precedence last");
    }
    IS(image.count[EDGE_SECTION_OBJECT], 2, "equal objects are stored once");
    IS(image.count[EDGE_SECTION_ACTION], 2, "and what routes do");
    edge_image_free(&built);
}

static void test_order_of_fragments_does_not_matter(void)
{
    struct edge_image one, two;

    for (int turn = 0; turn < 2; turn++) {
        f.used = 0;
        fixture_upstream(&f, 0);
        for (int i = 0; i < 40; i++) {
            char host[32];
            int slot = turn == 0 ? i : 39 - i;
            snprintf(host, sizeof(host), "h%d.example", slot % 10);
            fixture_route(&f, (uint32_t)slot, 7, host, EDGE_PATH_PREFIX, slot > 20 ? "/" : "/abc");
        }
        *(turn == 0 ? &one : &two) = fixture_build(&f, EDGE_IMAGE_FULL, 1, 0);
    }
    OK(one.size == two.size && memcmp(one.bytes, two.bytes, one.size) == 0, "the same bytes");
    edge_image_free(&one);
    edge_image_free(&two);
}

static void test_many_hosts(void)
{
    static uint8_t bytes[1 << 23] __attribute__((aligned(8)));
    struct edge_build_options options = {.kind = EDGE_IMAGE_FULL, .version = 1};
    struct edge_error err;
    struct edge_image out;
    size_t used = 0;

    for (uint32_t i = 0; i < 20000; i++) {
        char host[32];
        snprintf(host, sizeof(host), "host-%u.example.org", i);
        f.used = 0;
        if (i == 0)
            fixture_upstream(&f, 0);
        fixture_route(&f, i, i, host, EDGE_PATH_PREFIX, "/");
        memcpy(bytes + used, f.bytes, f.used);
        used += f.used;
    }
    IS(edge_image_build(bytes, used, &options, &out, &err), EDGE_OK, "20,000 hosts");
    edge_image_free(&out);
}

static void test_refusals(void)
{
    struct edge_error err;
    struct edge_fragment *head;

    fixture_everything(&f);
    fixture_route(&f, 3, 1, "c.example", EDGE_PATH_PREFIX, "/");
    IS(refused(&err), EDGE_ERR_INVALID, "a slot twice");
    OK(err.index == 19 || err.index == 9, "names the fragment: %u", err.index);
    IS(err.section, EDGE_SECTION_ROUTE, "and the section");

    fixture_everything(&f);
    fixture_route(&f, 20, 1, "c.example", EDGE_PATH_PREFIX, "nothing");
    IS(refused(&err), EDGE_ERR_INVALID, "a path without a slash");
    IS(err.index, 19, "names the fragment");
    OK(strcmp(err.field, "path") == 0, "and the field");

    f.used = 0;
    fixture_endpoints(&f, 5, 1, 80);
    IS(refused(&err), EDGE_ERR_REFERENCE, "endpoints of nothing");

    f.used = 0;
    fixture_route(&f, 0, 1, "c.example", EDGE_PATH_PREFIX, "/");
    IS(refused(&err), EDGE_ERR_REFERENCE, "a route to an upstream that is not there");
    IS(err.section, EDGE_SECTION_REFERENCE, "in the references");

    f.used = 0;
    fixture_upstream(&f, 0);
    fixture_upstream(&f, 0);
    IS(refused(&err), EDGE_ERR_INVALID, "an upstream twice");
    IS(err.index, 1, "the second one");

    f.used = 0;
    fixture_upstream(&f, 0);
    head = (void *)f.bytes;
    head->bytes += 8;
    IS(refused(&err), EDGE_ERR_TRUNCATED, "a fragment that is cut off");
    head->bytes = 8;
    IS(refused(&err), EDGE_ERR_INVALID, "a fragment that is too small");
    head->kind = 99;
    IS(refused(&err), EDGE_ERR_INVALID, "a kind that is not known");
    f.used = 0;
    fixture_certificate(&f, 0, "a.example", EDGE_CERTIFICATE_REJECT);
    fixture_certificate(&f, 1, "b.example", EDGE_CERTIFICATE_NAMED);
    IS(refused(&err), EDGE_ERR_INVALID, "a certificate after names that are rejected");
    f.used = 0;
    fixture_certificate(&f, 0, "a.example", EDGE_CERTIFICATE_REJECT + 1);
    IS(refused(&err), EDGE_ERR_INVALID, "a role that is not known");
}

/* An array in its own fragment's struct would be written over while it is read: of names, by the
 * numbers of what is kept. */
static void test_arrays_stand_behind_the_struct(void)
{
    struct edge_fragment_certificate *certificate;
    struct edge_fragment_endpoints *endpoints;
    struct edge_fragment_listener *listener;
    struct edge_error err;

    for (uint32_t offset = 0; offset < sizeof(*certificate); offset += 8) {
        f.used = 0;
        fixture_certificate(&f, 1, "a.example", EDGE_CERTIFICATE_DEFAULT);
        certificate = (void *)f.bytes;
        certificate->names_offset = offset;
        certificate->names_count = 2;
        IS(refused(&err), EDGE_ERR_INVALID, "names at %u", offset);
        OK(strcmp(err.field, "names_offset") == 0, "the field: %s", err.field);
    }
    f.used = 0;
    fixture_upstream(&f, 0);
    endpoints = (void *)(f.bytes + f.used);
    fixture_endpoints(&f, 0, 2, 8080);
    endpoints->endpoints_offset = 0;
    IS(refused(&err), EDGE_ERR_INVALID, "endpoints");
    OK(strcmp(err.field, "endpoints_offset") == 0, "the field: %s", err.field);
    f.used = 0;
    fixture_listener(&f, 0, EDGE_TRANSPORT_PLAIN);
    listener = (void *)f.bytes;
    listener->listener.trusted_count = 1;
    listener->trusted_offset = 8;
    IS(refused(&err), EDGE_ERR_INVALID, "trusted prefixes");
    OK(strcmp(err.field, "trusted_offset") == 0, "the field: %s", err.field);
}

/* Whatever the bytes of fragments are: refused or built, and never read outside. */
static void test_mutants(void)
{
    struct edge_build_options options = {.kind = EDGE_IMAGE_FULL, .version = 1};
    uint32_t built = 0, total = 0;
    uint8_t *copy;

    fixture_everything(&f);
    copy = malloc(f.used);
    for (uint32_t at = 0; at < f.used; at++)
        for (uint32_t value = 1; value < 256; value = value * 2 + 1) {
            struct edge_image out;
            memcpy(copy, f.bytes, f.used);
            copy[at] ^= (uint8_t)value;
            total++;
            built += edge_image_build(copy, f.used, &options, &out, NULL) == EDGE_OK;
            edge_image_free(&out);
        }
    free(copy);
    OK(built > 0 && built < total, "%u of %u mutants were built", built, total);
}

int main(void)
{
    test_everything();
    test_order_of_fragments_does_not_matter();
    test_many_hosts();
    test_refusals();
    test_arrays_stand_behind_the_struct();
    test_mutants();
    return tap_done();
}
