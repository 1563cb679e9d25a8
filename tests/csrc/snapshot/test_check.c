/* The validator: what it refuses, and that nothing which it accepts can be read outside.
 *
 * The mutants: every byte of an image, other values, checksum made right again. EDGE_LONG=1: all
 * 255 other values at every byte; else a spread sample.
 * links: base/error.c base/hash.c base/pattern.c snapshot/build.c snapshot/builder.c
 *  snapshot/build_hosts.c snapshot/build_names.c snapshot/build_paths.c snapshot/build_routes.c
 *  snapshot/build_upstreams.c snapshot/atoms.c
 *  snapshot/check_names.c snapshot/check_paths.c snapshot/check_routes.c snapshot/image.c
 *  snapshot/path_index.c match/explain.c match/fields.c match/host.c match/path.c match/paths.c
 *  match/patterns.c match/matcher.c
 * marks: slow */
#include "snapshot/check.c"

#include <stdlib.h>

#include "snapshot/exercise.h"
#include "snapshot/fixture.h"
#include "tap.h"

static struct fixture f;
static struct edge_image good;
static uint8_t *mutant;

static void restore(void)
{
    memcpy(mutant, good.bytes, good.size);
}

static int judge(struct edge_error *err)
{
    edge_image_seal(mutant, good.size);
    return edge_image_check(mutant, good.size, err);
}

static struct edge_image_header *header(void)
{
    return (void *)mutant;
}

static void *entry(uint32_t section, uint32_t index)
{
    return mutant + header()->section[section].offset + index * image_entry_bytes(section);
}

#define REFUSES(change, wanted, name)                                                              \
    do {                                                                                           \
        struct edge_error err = {0};                                                               \
        restore();                                                                                 \
        change;                                                                                    \
        IS(judge(&err), wanted, "%s", name);                                                       \
        OK(err.code == (wanted) && err.reason[0] != '\0', "%s: with a reason", name);              \
    } while (0)

static void test_header(void)
{
    struct edge_error err;

    restore();
    IS(edge_image_check(mutant, good.size, &err), EDGE_OK, "a good image");
    IS(edge_image_check(mutant, 100, &err), EDGE_ERR_TRUNCATED, "100 bytes");
    IS(edge_image_check(mutant, good.size - 64, &err), EDGE_ERR_TRUNCATED, "64 bytes less");
    mutant[good.size / 2] ^= 1;
    IS(edge_image_check(mutant, good.size, &err), EDGE_ERR_CHECKSUM, "a flipped bit");
    REFUSES(header()->magic++, EDGE_ERR_INVALID, "magic");
    REFUSES(header()->abi++, EDGE_ERR_ABI, "another version");
    REFUSES(header()->kind = 9, EDGE_ERR_INVALID, "kind");
    REFUSES(header()->kind = EDGE_IMAGE_PATCH, EDGE_ERR_INVALID, "a patch without a base");
    REFUSES(header()->base_version = 1, EDGE_ERR_INVALID, "a full image with a base");
    REFUSES(header()->version = 0, EDGE_ERR_INVALID, "version 0");
    REFUSES(header()->reserved = 1, EDGE_ERR_INVALID, "reserved");
    REFUSES(header()->section_count = 24, EDGE_ERR_SECTION, "one section more");
    REFUSES(header()->section[6].offset += 8, EDGE_ERR_SECTION, "a gap");
    REFUSES(header()->section[6].entry_bytes++, EDGE_ERR_SECTION, "another size of entry");
    REFUSES(header()->section[6].count = 4000000, EDGE_ERR_LIMIT, "too many routes");
    REFUSES(header()->section[12].count = 1, EDGE_ERR_LIMIT, "a template");
}

static void test_entries(void)
{
    struct edge_image_route *route;
    struct edge_image_table *table;
    struct edge_image_listener *listener;
    struct edge_image_action *action;
    struct edge_image_condition *condition;
    struct edge_image_field_match *field;
    struct edge_image_path_index *paths;
    struct edge_image_path_entry *taken;
    struct edge_image_path_other *other;
    struct edge_image_sni_entry *name;

    restore();
    action = entry(EDGE_SECTION_ACTION, 0);
    condition = entry(EDGE_SECTION_CONDITION, 0);
    field = entry(EDGE_SECTION_FIELD_MATCH, 0);
    paths = entry(EDGE_SECTION_PATH_INDEX, 0);
    other = entry(EDGE_SECTION_PATH_OTHER, 0);
    taken = entry(EDGE_SECTION_PATH_ENTRY, 0);
    while (taken->prefix == 0 || (taken->prefix & EDGE_PATH_CONDITIONAL) || taken->key_length == 0)
        taken++;
    name = entry(EDGE_SECTION_SNI_ENTRY, 0);
    while (name->name.length == 0)
        name++;
    route = entry(EDGE_SECTION_ROUTE, 0);
    table = entry(EDGE_SECTION_HOST_TABLE, 0);
    listener = entry(EDGE_SECTION_LISTENER, 0);
    REFUSES(route->slot = EDGE_ROUTE_SLOTS, EDGE_ERR_LIMIT, "route slot");
    REFUSES(route->slot = route[1].slot, EDGE_ERR_INVALID, "route slot twice");
    REFUSES(route->path.offset = 1u << 30, EDGE_ERR_REFERENCE, "path outside");
    REFUSES(route->path.length = UINT32_MAX, EDGE_ERR_REFERENCE, "path too long");
    REFUSES(route->path_type = EDGE_PATH_REGEX, EDGE_ERR_REFERENCE, "regex without a pattern");
    REFUSES(route->path_type = 5, EDGE_ERR_INVALID, "path type");
    REFUSES(route->pattern = 1, EDGE_ERR_INVALID, "a pattern for nothing");
    REFUSES(route->condition = 4, EDGE_ERR_REFERENCE, "a condition that is not there");
    REFUSES(route->action = 9, EDGE_ERR_REFERENCE, "an action that is not there");
    REFUSES(route->object = 1, EDGE_ERR_REFERENCE, "an object out of order");
    REFUSES(route->next = 1, EDGE_ERR_REFERENCE, "a route that follows itself");
    REFUSES(action->first_filter = 1, EDGE_ERR_REFERENCE, "first filter");
    REFUSES(action->reference_count = 2000, EDGE_ERR_LIMIT, "references");
    REFUSES(action->reserved = 1, EDGE_ERR_INVALID, "reserved of an action");
    REFUSES(condition->field_match_count = 65, EDGE_ERR_LIMIT, "field matches");
    REFUSES(condition->not_before_s = -1, EDGE_ERR_INVALID, "a time before 1970");
    REFUSES(field->target = 4, EDGE_ERR_INVALID, "target");
    REFUSES(field->type = 3, EDGE_ERR_INVALID, "type");
    REFUSES(field->type = EDGE_FIELD_REGEX, EDGE_ERR_REFERENCE, "a method by expression");
    REFUSES(field->name.length = 1, EDGE_ERR_INVALID, "a method with a name");
    REFUSES(field->reserved = 1, EDGE_ERR_INVALID, "reserved of a field match");
    REFUSES(field[1].name.length = 0, EDGE_ERR_INVALID, "a header without a name");
    REFUSES(field[2].pattern = 0, EDGE_ERR_REFERENCE, "an expression without a pattern");
    REFUSES(field[2].pattern = 2, EDGE_ERR_REFERENCE, "another expression's pattern");
    REFUSES(paths->exact_counts ^= 2, EDGE_ERR_INVALID, "element counts");
    REFUSES(paths->prefix_counts ^= 4, EDGE_ERR_INVALID, "element counts of prefixes");
    REFUSES(paths->mask = 2, EDGE_ERR_INVALID, "mask of an index");
    REFUSES(paths->flags ^= EDGE_PATHS_ORDERED, EDGE_ERR_INVALID, "a false order");
    REFUSES(paths->flags |= 4, EDGE_ERR_INVALID, "flags of an index");
    REFUSES(paths->route_count = 0, EDGE_ERR_INVALID, "an index of no routes");
    REFUSES(paths->text_lengths[1] ^= 1, EDGE_ERR_INVALID, "lengths of texts");
    REFUSES(paths->text_buckets = 3, EDGE_ERR_INVALID, "buckets of texts");
    REFUSES(paths->first_route = 5, EDGE_ERR_REFERENCE, "an index of another host");
    REFUSES(taken->tag++, EDGE_ERR_INVALID, "tag of a key");
    REFUSES(taken->key_length--, EDGE_ERR_INVALID, "another key");
    REFUSES(taken->prefix |= EDGE_PATH_CONDITIONAL, EDGE_ERR_INVALID, "a mark of no condition");
    REFUSES(taken->prefix = 99, EDGE_ERR_REFERENCE, "a route outside the host");
    REFUSES(other->route = 99, EDGE_ERR_REFERENCE, "an other outside the host");
    REFUSES(table->mask = 6, EDGE_ERR_INVALID, "mask");
    REFUSES(table->mask = 1023, EDGE_ERR_REFERENCE, "a table larger than its entries");
    REFUSES(table->wildcards = 1, EDGE_ERR_INVALID, "wildcards that are not there");
    REFUSES(table->fallback = 4, EDGE_ERR_REFERENCE, "any-host entry among the buckets");
    REFUSES(listener->host_table = 5, EDGE_ERR_REFERENCE, "host table");
    REFUSES(listener->sni_table = 1, EDGE_ERR_INVALID, "names on a plain listener");
    REFUSES(listener->slot = 64, EDGE_ERR_LIMIT, "listener slot");
    REFUSES(listener->port = 0, EDGE_ERR_INVALID, "port 0");
    REFUSES(listener->reserved[1] = 1, EDGE_ERR_INVALID, "reserved of a listener");
    REFUSES(((struct edge_image_filter *)entry(EDGE_SECTION_FILTER, 0))->kind = 7, EDGE_ERR_INVALID,
            "filter");
    REFUSES(((struct edge_image_reference *)entry(EDGE_SECTION_REFERENCE, 0))->upstream_slot = 3,
            EDGE_ERR_REFERENCE, "an upstream that is not there");
    REFUSES(((struct edge_image_endpoint *)entry(EDGE_SECTION_ENDPOINT, 0))->port = 0,
            EDGE_ERR_INVALID, "endpoint without a port");
    REFUSES(name->certificate = 77, EDGE_ERR_REFERENCE, "a certificate outside");
    REFUSES(name->action = EDGE_SNI_PASSTHROUGH, EDGE_ERR_INVALID, "names that are passed through");
    REFUSES(((uint8_t *)entry(EDGE_SECTION_TEXT, 0))[0] = '\n', EDGE_ERR_INVALID, "a line end");
}

static void test_tables_end(void)
{
    struct edge_image_host_entry *hosts;
    struct edge_error err;
    struct edge_image_host_entry name = {0};

    restore();
    hosts = entry(EDGE_SECTION_HOST_ENTRY, 0);
    for (int i = 0; i < 8; i++)
        if (hosts[i].name_length != 0)
            name = hosts[i];
    for (int i = 0; i < 8; i++)
        if (hosts[i].name_length == 0)
            hosts[i] = name;
    IS(judge(&err), EDGE_ERR_INVALID, "a table without an empty bucket");
    restore();
    for (int i = 0; i < 8; i++)
        if (hosts[i].name_length != 0) {
            hosts[i].tag++;
            break;
        }
    IS(judge(&err), EDGE_ERR_INVALID, "a wrong hash");
}

static void test_mutants(const struct edge_image *image, const char *what)
{
    const bool all = getenv("EDGE_LONG") != NULL;
    uint32_t accepted = 0, total = 0;
    uint8_t *bytes = malloc(image->size);

    OK(image->size <= 16384, "%s has %u bytes", what, (unsigned)image->size);
    memcpy(bytes, image->bytes, image->size);
    for (size_t at = 0; at < image->size; at++) {
        for (uint32_t value = 1; value < 256; value++) {
            if (!all && (at * 31 + value) % 61 != 0 && value != 1 && value != 128)
                continue;
            bytes[at] = image->bytes[at] ^ (uint8_t)value;
            total++;
            edge_image_seal(bytes, image->size);
            if (edge_image_check(bytes, image->size, NULL) == EDGE_OK) {
                accepted++;
                exercise_image(bytes, image->size);
            }
        }
        bytes[at] = image->bytes[at];
    }
    free(bytes);
    OK(accepted > 0 && accepted < total, "%u of %u mutants of %s were accepted, and served",
       accepted, total, what);
}

int main(void)
{
    fixture_everything(&f);
    good = fixture_build(&f, EDGE_IMAGE_FULL, 3, 0);
    mutant = malloc(good.size);
    test_header();
    test_entries();
    test_tables_end();
    test_mutants(&good, "a full image");
    f.used = 0;
    fixture_upstream(&f, 7);
    fixture_endpoints(&f, 7, 2, 9090);
    struct edge_image patch = fixture_build(&f, EDGE_IMAGE_PATCH, 4, 3);
    test_mutants(&patch, "an endpoint patch");
    edge_image_free(&patch);
    free(mutant);
    edge_image_free(&good);
    return tap_done();
}
