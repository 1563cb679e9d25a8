/* Sets of expressions: what stays from one image to the next, and what goes.
 *
 * links: base/error.c base/hash.c base/pattern.c snapshot/image.c */
#include "match/patterns.c"

#include "tap.h"

static struct edge_image_pattern patterns[3];
static struct image image = {.patterns = patterns, .text = "/a+/b+(bad"};

static struct pattern_set *set_of(const struct pattern_set *old, uint32_t count)
{
    struct pattern_set *set = NULL;

    image.count[EDGE_SECTION_PATTERN] = count;
    IS(pattern_set_create(&image, old, &set, NULL), EDGE_OK, "%u expressions", count);
    return set;
}

int main(void)
{
    struct pattern_set *one, *two, *none = NULL;
    struct edge_error err;

    patterns[0].text = (struct edge_text){0, 3};
    patterns[1].text = (struct edge_text){3, 3};
    patterns[2].text = (struct edge_text){6, 4};
    OK(set_of(NULL, 0) == NULL, "no set for none");
    one = set_of(NULL, 1);
    patterns[0].text = (struct edge_text){3, 3};
    patterns[1].text = (struct edge_text){0, 3};
    two = set_of(one, 2);
    OK(two->entries[1].pattern == one->entries[0].pattern, "the same text is compiled once");
    pattern_set_hold(two);
    pattern_set_release(one);
    image.compiled = two;
    OK(pattern_set_matches(&image, 2, SLICE("/aa")), "and outlives its first set");
    OK(!pattern_set_matches(&image, 1, SLICE("/aa")), "another");
    image.count[EDGE_SECTION_PATTERN] = 3;
    IS(pattern_set_create(&image, two, &none, &err), EDGE_ERR_INVALID, "one that is none");
    IS(err.section, EDGE_SECTION_PATTERN, "named by section");
    IS(err.index, 2, "and index");
    OK(none == NULL, "no set");
    pattern_set_release(two);
    pattern_set_release(two);
    pattern_set_release(NULL);
    return tap_done();
}
