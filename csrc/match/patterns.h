/* The compiled expressions of an image, by their place in its PATTERN section.
 *
 * Made by preparation (worker/edition.c, or edge_image_explain for its own use), never on a
 * worker; owned by references, because a patched edition goes on with its base's. */
#ifndef EDGE_MATCH_PATTERNS_H
#define EDGE_MATCH_PATTERNS_H

#include "base/pattern.h"
#include "snapshot/image.h"

struct pattern_set {
    uint32_t references; /* control thread only */
    uint32_t count;
    struct pattern_entry *entries;
};

struct compiled; /* shared by the sets that have the same text */

struct pattern_entry {
    const struct pattern *pattern;
    struct compiled *owner;
};

/* What old has already compiled is taken over. *out is NULL when there is no expression.
 * Errors: pattern_compile()'s, with section PATTERN and its index. */
int pattern_set_create(const struct image *image, const struct pattern_set *old,
                       struct pattern_set **out, struct edge_error *err);
void pattern_set_hold(struct pattern_set *set);
void pattern_set_release(struct pattern_set *set); /* NULL is fine */

/* number: index + 1, as routes and field matches name it. */
static inline bool pattern_set_matches(const struct image *image, uint32_t number,
                                       struct slice subject)
{
    return image->compiled != NULL &&
           pattern_matches(image->compiled->entries[number - 1].pattern, subject);
}

#endif
