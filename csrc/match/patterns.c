/* Sets of compiled expressions: see patterns.h.
 *
 * One publish after another has mostly the same expressions, so a new set takes them from the old
 * one by hash and text. */
#include "match/patterns.h"

#include <stdlib.h>

#include "base/error.h"

struct compiled {
    struct pattern *pattern;
    uint32_t references;
    uint32_t hash;
    size_t length;
    char text[];
};

static struct compiled *find(const struct pattern_set *old, uint32_t guess, struct slice text,
                             uint32_t hash)
{
    /* Mostly it stands where it stood. */
    for (uint32_t i = 0; old != NULL && i < old->count; i++) {
        struct compiled *it = old->entries[(guess + i) % old->count].owner;
        if (it->hash == hash && slice_equal((struct slice){it->text, it->length}, text))
            return it;
    }
    return NULL;
}

static int make(struct slice text, uint32_t hash, struct compiled **out, struct edge_error *err)
{
    struct compiled *it = malloc(sizeof(*it) + text.length);
    int rc;

    if (it == NULL)
        return error_set(err, EDGE_ERR_NOMEM, "no memory for an expression");
    rc = pattern_compile(text, &it->pattern, err);
    if (rc != EDGE_OK) {
        free(it);
        return rc;
    }
    it->references = 0;
    it->hash = hash;
    it->length = text.length;
    memcpy(it->text, text.at, text.length);
    *out = it;
    return EDGE_OK;
}

int pattern_set_create(const struct image *image, const struct pattern_set *old,
                       struct pattern_set **out, struct edge_error *err)
{
    const uint32_t count = image->count[EDGE_SECTION_PATTERN];
    struct pattern_set *set;

    *out = NULL;
    if (count == 0)
        return EDGE_OK;
    set = calloc(1, sizeof(*set));
    if (set != NULL)
        set->entries = calloc(count, sizeof(*set->entries));
    if (set == NULL || set->entries == NULL) {
        free(set);
        return error_set(err, EDGE_ERR_NOMEM, "no memory for expressions");
    }
    set->references = 1;
    for (uint32_t i = 0; i < count; i++) {
        struct slice text = image_text(image, image->patterns[i].text);
        uint32_t hash = edge_text_hash(text.at, text.length);
        struct compiled *it = find(old, i, text, hash);
        int rc = it != NULL ? EDGE_OK : make(text, hash, &it, err);
        if (rc != EDGE_OK) {
            pattern_set_release(set);
            if (err != NULL) {
                err->section = EDGE_SECTION_PATTERN;
                err->index = i;
            }
            return rc;
        }
        it->references++;
        set->entries[set->count++] = (struct pattern_entry){it->pattern, it};
    }
    *out = set;
    return EDGE_OK;
}

void pattern_set_hold(struct pattern_set *set)
{
    if (set != NULL)
        set->references++;
}

void pattern_set_release(struct pattern_set *set)
{
    if (set == NULL || --set->references > 0)
        return;
    for (uint32_t i = 0; i < set->count; i++)
        if (--set->entries[i].owner->references == 0) {
            pattern_release(set->entries[i].owner->pattern);
            free(set->entries[i].owner);
        }
    free(set->entries);
    free(set);
}
