/* The validator's part for routes, and for what they share: objects, actions, conditions, patterns.
 *
 * Called by check.c before the hosts are looked at. */
#include "snapshot/check.h"

/* How far the lists were walked that routes name. */
struct shared {
    uint64_t patterns[LIMIT_PATTERNS / 64]; /* bits of those that something uses */
    uint32_t actions;
    uint32_t objects;
    uint32_t conditions;
};

static int check_pattern(struct walk *walk, uint32_t number, bool wanted, struct edge_text text,
                         struct shared *shared)
{
    const struct image *image = &walk->image;

    if (!wanted) {
        if (number != 0)
            REFUSE(walk, EDGE_ERR_INVALID, "pattern", "nothing to match with it");
        return EDGE_OK;
    }
    if (number == 0 || number > image->count[EDGE_SECTION_PATTERN])
        REFUSE(walk, EDGE_ERR_REFERENCE, "pattern", "%" PRIu32 " is not there", number);
    if (memcmp(&image->patterns[number - 1].text, &text, sizeof(text)) != 0)
        REFUSE(walk, EDGE_ERR_REFERENCE, "pattern", "has another text");
    shared->patterns[(number - 1) / 64] |= UINT64_C(1) << ((number - 1) % 64);
    return EDGE_OK;
}

static int check_route(struct walk *walk, const struct edge_image_route *it, struct shared *shared)
{
    const bool regex = it->path_type == EDGE_PATH_REGEX;

    TRY(check_text(walk, it->path, "path", LIMIT_PATH_BYTES));
    if (it->path_type != EDGE_PATH_EXACT && it->path_type != EDGE_PATH_PREFIX &&
        it->path_type != EDGE_PATH_STRING_PREFIX && !regex)
        REFUSE(walk, EDGE_ERR_INVALID, "path_type", "unknown");
    if (it->path.length == 0 || (!regex && walk->image.text[it->path.offset] != '/'))
        REFUSE(walk, EDGE_ERR_INVALID, "path", "does not begin with a slash");
    TRY(check_pattern(walk, it->pattern, regex, it->path, shared));
    TRY(check_text(walk, it->path_written, "path_written", LIMIT_PATH_BYTES));
    if (it->condition != 0)
        TRY(check_shared(walk, it->condition - 1, EDGE_SECTION_CONDITION, &shared->conditions,
                         "condition"));
    TRY(check_shared(walk, it->action, EDGE_SECTION_ACTION, &shared->actions, "action"));
    return check_shared(walk, it->object, EDGE_SECTION_OBJECT, &shared->objects, "object");
}

static int check_field(struct walk *walk, const struct edge_image_field_match *it,
                       struct shared *shared)
{
    const struct image *image = &walk->image;
    const char *name;

    if (it->target != EDGE_FIELD_HEADER && it->target != EDGE_FIELD_QUERY &&
        it->target != EDGE_FIELD_METHOD)
        REFUSE(walk, EDGE_ERR_INVALID, "target", "unknown");
    if (it->type != EDGE_FIELD_EXACT && it->type != EDGE_FIELD_REGEX)
        REFUSE(walk, EDGE_ERR_INVALID, "type", "unknown");
    TRY(check_text(walk, it->name, "name", LIMIT_FIELD_NAME_BYTES));
    TRY(check_text(walk, it->value, "value", LIMIT_FIELD_VALUE_BYTES));
    TRY(check_pattern(walk, it->pattern, it->type == EDGE_FIELD_REGEX, it->value, shared));
    if (it->reserved != 0)
        REFUSE(walk, EDGE_ERR_INVALID, "reserved", "must be zero");
    if ((it->name.length == 0) != (it->target == EDGE_FIELD_METHOD))
        REFUSE(walk, EDGE_ERR_INVALID, "name", "a method has none, all else has one");
    if (it->target == EDGE_FIELD_METHOD && (it->type != EDGE_FIELD_EXACT || it->value.length == 0))
        REFUSE(walk, EDGE_ERR_INVALID, "value", "a method is compared as it is");
    name = image->text + it->name.offset;
    for (uint32_t i = 0; it->target == EDGE_FIELD_HEADER && i < it->name.length; i++)
        if ((name[i] >= 'A' && name[i] <= 'Z') || name[i] == ' ' || name[i] == ':')
            REFUSE(walk, EDGE_ERR_INVALID, "name", "a character that no lower-case name has");
    return EDGE_OK;
}

static int check_conditions(struct walk *walk, struct shared *shared)
{
    const struct image *image = &walk->image;
    uint32_t fields = 0;

    TRY(check_used_up(walk, EDGE_SECTION_CONDITION, shared->conditions));
    for (uint32_t i = 0; i < image->count[EDGE_SECTION_CONDITION]; i++) {
        const struct edge_image_condition *it = &image->conditions[i];
        walk->index = i;
        if (it->field_match_count > LIMIT_FIELD_MATCHES)
            REFUSE(walk, EDGE_ERR_LIMIT, "field_match_count", "%" PRIu32, it->field_match_count);
        if (it->field_match_count == 0 && it->not_before_s == 0 && it->not_after_s == 0)
            REFUSE(walk, EDGE_ERR_INVALID, "field_match_count", "a condition of nothing");
        if (it->not_before_s < 0 || it->not_after_s < 0)
            REFUSE(walk, EDGE_ERR_INVALID, "not_before_s", "before 1970");
        TRY(check_list(walk, it->first_field_match, it->field_match_count, EDGE_SECTION_FIELD_MATCH,
                       &fields, "first_field_match"));
    }
    TRY(check_used_up(walk, EDGE_SECTION_FIELD_MATCH, fields));
    for (uint32_t i = 0; i < fields; i++) {
        walk->index = i;
        TRY(check_field(walk, &image->field_matches[i], shared));
    }
    return EDGE_OK;
}

static int check_patterns(struct walk *walk, const struct shared *shared)
{
    walk->section = EDGE_SECTION_PATTERN;
    for (uint32_t i = 0; i < walk->image.count[EDGE_SECTION_PATTERN]; i++) {
        walk->index = i;
        if ((shared->patterns[i / 64] >> (i % 64) & 1) == 0)
            REFUSE(walk, EDGE_ERR_REFERENCE, "", "belongs to nothing");
        if (walk->image.patterns[i].text.length > LIMIT_PATTERN_BYTES)
            REFUSE(walk, EDGE_ERR_LIMIT, "text", "an expression of %" PRIu32 " bytes",
                   walk->image.patterns[i].text.length);
    }
    return EDGE_OK;
}

static int check_lists(struct walk *walk, const uint64_t *upstream_slots)
{
    const struct image *image = &walk->image;

    walk->section = EDGE_SECTION_FILTER;
    for (uint32_t i = 0; i < image->count[EDGE_SECTION_FILTER]; i++) {
        walk->index = i;
        if (image->filters[i].kind != EDGE_FILTER_DELAY)
            REFUSE(walk, EDGE_ERR_INVALID, "kind", "unknown filter");
        if (image->filters[i].reserved != 0)
            REFUSE(walk, EDGE_ERR_INVALID, "reserved", "must be zero");
        if (image->filters[i].argument > LIMIT_DELAY_MS)
            REFUSE(walk, EDGE_ERR_LIMIT, "argument", "a delay of %" PRIu64 " ms",
                   image->filters[i].argument);
    }
    walk->section = EDGE_SECTION_REFERENCE;
    for (uint32_t i = 0; i < image->count[EDGE_SECTION_REFERENCE]; i++) {
        uint32_t slot = image->references[i].upstream_slot;
        walk->index = i;
        if (slot >= EDGE_UPSTREAM_SLOTS || !(upstream_slots[slot / 64] >> (slot % 64) & 1))
            REFUSE(walk, EDGE_ERR_REFERENCE, "upstream_slot", "%" PRIu32 " is not there", slot);
        if (image->references[i].weight > LIMIT_WEIGHT)
            REFUSE(walk, EDGE_ERR_LIMIT, "weight", "%" PRIu32, image->references[i].weight);
    }
    return EDGE_OK;
}

static int check_actions(struct walk *walk, const uint64_t *upstream_slots)
{
    const struct image *image = &walk->image;
    uint32_t filters = 0, references = 0;

    for (uint32_t i = 0; i < image->count[EDGE_SECTION_ACTION]; i++) {
        const struct edge_image_action *it = &image->actions[i];
        walk->section = EDGE_SECTION_ACTION;
        walk->index = i;
        if ((it->flags & ~(uint32_t)EDGE_ROUTE_REDIRECT_HTTPS) != 0)
            REFUSE(walk, EDGE_ERR_INVALID, "flags", "unknown");
        if (it->reserved != 0)
            REFUSE(walk, EDGE_ERR_INVALID, "reserved", "must be zero");
        if (it->body_bytes_max > INT64_MAX)
            REFUSE(walk, EDGE_ERR_LIMIT, "body_bytes_max", "too large");
        if (it->filter_count > LIMIT_FILTERS)
            REFUSE(walk, EDGE_ERR_LIMIT, "filter_count", "%" PRIu32, it->filter_count);
        if (it->reference_count > LIMIT_REFERENCES)
            REFUSE(walk, EDGE_ERR_LIMIT, "reference_count", "%" PRIu32, it->reference_count);
        TRY(check_text(walk, it->service, "service", LIMIT_LABEL_BYTES));
        TRY(check_list(walk, it->first_filter, it->filter_count, EDGE_SECTION_FILTER, &filters,
                       "first_filter"));
        TRY(check_list(walk, it->first_reference, it->reference_count, EDGE_SECTION_REFERENCE,
                       &references, "first_reference"));
    }
    TRY(check_used_up(walk, EDGE_SECTION_FILTER, filters));
    TRY(check_used_up(walk, EDGE_SECTION_REFERENCE, references));
    return check_lists(walk, upstream_slots);
}

static int check_objects(struct walk *walk)
{
    walk->section = EDGE_SECTION_OBJECT;
    for (uint32_t i = 0; i < walk->image.count[EDGE_SECTION_OBJECT]; i++) {
        const struct edge_image_object *it = &walk->image.objects[i];
        walk->index = i;
        TRY(check_text(walk, it->kind, "kind", LIMIT_NAME_BYTES));
        TRY(check_text(walk, it->object_namespace, "object_namespace", LIMIT_NAME_BYTES));
        TRY(check_text(walk, it->object_name, "object_name", LIMIT_NAME_BYTES));
    }
    return EDGE_OK;
}

int check_routes(struct walk *walk, const uint64_t *upstream_slots)
{
    const struct image *image = &walk->image;
    uint64_t seen[EDGE_ROUTE_SLOTS / 64] = {0};
    struct shared shared = {.actions = 0};

    for (uint32_t i = 0; i < image->count[EDGE_SECTION_ROUTE]; i++) {
        const struct edge_image_route *it = &image->routes[i];
        walk->section = EDGE_SECTION_ROUTE;
        walk->index = i;
        TRY(check_slot(walk, seen, it->slot, EDGE_ROUTE_SLOTS));
        TRY(check_route(walk, it, &shared));
    }
    TRY(check_used_up(walk, EDGE_SECTION_ACTION, shared.actions));
    TRY(check_used_up(walk, EDGE_SECTION_OBJECT, shared.objects));
    TRY(check_conditions(walk, &shared));
    TRY(check_patterns(walk, &shared));
    TRY(check_actions(walk, upstream_slots));
    return check_objects(walk);
}
