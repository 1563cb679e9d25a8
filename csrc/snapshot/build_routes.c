/* The part of the image builder that lays out one route, and what it shares with other routes.
 *
 * Called by build_hosts.c in the order of hosts and precedence. Objects, actions, conditions and
 * patterns that are equal are stored once. What a value may be is the check's business. */
#include <string.h>

#include "base/hash.h"
#include "snapshot/builder.h"
#include "snapshot/path_index.h"

static uint32_t hash_of(const void *bytes, size_t length)
{
    return edge_text_hash(bytes, length);
}

static bool same_object(const struct builder *builder, uint32_t index, const void *wanted)
{
    const struct edge_image_object *all = (void *)builder->section[EDGE_SECTION_OBJECT].bytes;
    return memcmp(&all[index], wanted, sizeof(*all)) == 0;
}

static int put_object(struct builder *builder, struct item item, const struct edge_route *route,
                      uint32_t *index)
{
    struct edge_image_object wanted = {route->kind, route->object_namespace, route->object_name};
    struct edge_image_object *entry;
    uint32_t *slot;

    BUILDER_TRY(builder_move_text(builder, item, &wanted.kind, "kind"));
    BUILDER_TRY(builder_move_text(builder, item, &wanted.object_namespace, "object_namespace"));
    BUILDER_TRY(builder_move_text(builder, item, &wanted.object_name, "object_name"));
    BUILDER_TRY(builder_share(builder, EDGE_SECTION_OBJECT, hash_of(&wanted, sizeof(wanted)),
                              same_object, &wanted, &slot));
    if (*slot == 0) {
        *slot = builder->section[EDGE_SECTION_OBJECT].count + 1;
        entry = builder_append(builder, EDGE_SECTION_OBJECT, 1, item.number);
        if (entry == NULL)
            return builder_no_memory(builder);
        *entry = wanted;
    }
    *index = *slot - 1;
    return EDGE_OK;
}

/* An action before it has a place: its lists lie in the fragment. */
struct action {
    struct edge_image_action entry;
    const void *filters;
    const void *references;
};

static bool same_action(const struct builder *builder, uint32_t index, const void *wanted)
{
    const struct action *it = wanted;
    const struct edge_image_action *entry =
        (const struct edge_image_action *)(const void *)builder->section[EDGE_SECTION_ACTION]
            .bytes +
        index;
    const struct edge_image_filter *filters = (void *)builder->section[EDGE_SECTION_FILTER].bytes;
    const struct edge_image_reference *references =
        (void *)builder->section[EDGE_SECTION_REFERENCE].bytes;

    return entry->flags == it->entry.flags && entry->filter_count == it->entry.filter_count &&
           entry->reference_count == it->entry.reference_count &&
           entry->body_bytes_max == it->entry.body_bytes_max &&
           memcmp(&entry->service, &it->entry.service, sizeof(entry->service)) == 0 &&
           (entry->filter_count == 0 || memcmp(filters + entry->first_filter, it->filters,
                                               entry->filter_count * sizeof(*filters)) == 0) &&
           (entry->reference_count == 0 ||
            memcmp(references + entry->first_reference, it->references,
                   entry->reference_count * sizeof(*references)) == 0);
}

static int append_list(struct builder *builder, struct item item, uint32_t section,
                       const void *entries, uint32_t count)
{
    void *copy = builder_append(builder, section, count, item.number);

    if (copy == NULL)
        return builder_no_memory(builder);
    if (count > 0)
        memcpy(copy, entries, count * (size_t)image_entry_bytes(section));
    return EDGE_OK;
}

static int put_action(struct builder *builder, struct item item,
                      const struct edge_fragment_route *fragment, uint32_t *index)
{
    const struct edge_route *route = &fragment->route;
    struct action wanted = {.entry = {.flags = route->flags,
                                      .filter_count = route->filter_count,
                                      .reference_count = route->reference_count,
                                      .body_bytes_max = route->body_bytes_max,
                                      .service = route->service}};
    struct edge_image_action *entry;
    uint32_t *slot, hash;

    BUILDER_TRY(builder_array(builder, item, fragment->filters_offset, route->filter_count,
                              sizeof(struct edge_image_filter), "filters_offset", &wanted.filters));
    BUILDER_TRY(builder_array(builder, item, fragment->references_offset, route->reference_count,
                              sizeof(struct edge_image_reference), "references_offset",
                              &wanted.references));
    BUILDER_TRY(builder_move_text(builder, item, &wanted.entry.service, "service"));
    hash = hash_of(&wanted.entry, sizeof(wanted.entry));
    if (route->filter_count > 0)
        hash ^= hash_of(wanted.filters, route->filter_count * sizeof(struct edge_image_filter));
    if (route->reference_count > 0)
        hash ^= hash_of(wanted.references,
                        route->reference_count * sizeof(struct edge_image_reference));
    BUILDER_TRY(builder_share(builder, EDGE_SECTION_ACTION, hash, same_action, &wanted, &slot));
    if (*slot == 0) {
        *slot = builder->section[EDGE_SECTION_ACTION].count + 1;
        wanted.entry.first_filter = builder->section[EDGE_SECTION_FILTER].count;
        wanted.entry.first_reference = builder->section[EDGE_SECTION_REFERENCE].count;
        BUILDER_TRY(
            append_list(builder, item, EDGE_SECTION_FILTER, wanted.filters, route->filter_count));
        BUILDER_TRY(append_list(builder, item, EDGE_SECTION_REFERENCE, wanted.references,
                                route->reference_count));
        entry = builder_append(builder, EDGE_SECTION_ACTION, 1, item.number);
        if (entry == NULL)
            return builder_no_memory(builder);
        *entry = wanted.entry;
    }
    *index = *slot - 1;
    return EDGE_OK;
}

static bool same_pattern(const struct builder *builder, uint32_t index, const void *wanted)
{
    const struct edge_image_pattern *all = (void *)builder->section[EDGE_SECTION_PATTERN].bytes;
    return memcmp(&all[index], wanted, sizeof(*all)) == 0;
}

/* The text is in the image already. *number: index + 1. */
static int put_pattern(struct builder *builder, struct item item, struct edge_text text,
                       uint32_t *number)
{
    struct edge_image_pattern *entry;
    uint32_t *slot;

    BUILDER_TRY(builder_share(builder, EDGE_SECTION_PATTERN, hash_of(&text, sizeof(text)),
                              same_pattern, &text, &slot));
    if (*slot == 0) {
        *slot = builder->section[EDGE_SECTION_PATTERN].count + 1;
        entry = builder_append(builder, EDGE_SECTION_PATTERN, 1, item.number);
        if (entry == NULL)
            return builder_no_memory(builder);
        entry->text = text;
    }
    *number = *slot;
    return EDGE_OK;
}

struct condition {
    struct edge_image_condition entry;
    const struct edge_image_field_match *fields; /* their texts are the image's already */
};

static bool same_condition(const struct builder *builder, uint32_t index, const void *wanted)
{
    const struct condition *it = wanted;
    const struct edge_image_condition *entry =
        (const struct edge_image_condition *)(const void *)builder->section[EDGE_SECTION_CONDITION]
            .bytes +
        index;
    const struct edge_image_field_match *fields =
        (void *)builder->section[EDGE_SECTION_FIELD_MATCH].bytes;

    return entry->field_match_count == it->entry.field_match_count &&
           entry->not_before_s == it->entry.not_before_s &&
           entry->not_after_s == it->entry.not_after_s &&
           (entry->field_match_count == 0 ||
            memcmp(fields + entry->first_field_match, it->fields,
                   entry->field_match_count * sizeof(*fields)) == 0);
}

/* *number: index + 1, 0: the route has none. */
static int put_condition(struct builder *builder, struct item item,
                         const struct edge_fragment_route *fragment, uint32_t *number)
{
    const struct edge_route *route = &fragment->route;
    struct edge_image_field_match fields[LIMIT_FIELD_MATCHES] = {0};
    struct condition wanted = {.entry = {.field_match_count = route->field_match_count,
                                         .not_before_s = route->not_before_s,
                                         .not_after_s = route->not_after_s},
                               .fields = fields};
    struct edge_image_condition *entry;
    const void *given;
    uint32_t *slot;

    *number = 0;
    if (route->field_match_count == 0 && route->not_before_s == 0 && route->not_after_s == 0)
        return EDGE_OK;
    if (route->field_match_count > LIMIT_FIELD_MATCHES)
        return builder_refuse(builder, item, EDGE_ERR_LIMIT, "field_match_count", "too many");
    BUILDER_TRY(builder_array(builder, item, fragment->fields_offset, route->field_match_count,
                              sizeof(fields[0]), "fields_offset", &given));
    if (route->field_match_count > 0)
        memcpy(fields, given, route->field_match_count * sizeof(fields[0]));
    for (uint32_t i = 0; i < route->field_match_count; i++) {
        if (fields[i].pattern != 0)
            return builder_refuse(builder, item, EDGE_ERR_INVALID, "pattern", "must be zero");
        BUILDER_TRY(builder_move_text(builder, item, &fields[i].name, "name"));
        BUILDER_TRY(builder_move_text(builder, item, &fields[i].value, "value"));
        if (fields[i].type == EDGE_FIELD_REGEX)
            BUILDER_TRY(put_pattern(builder, item, fields[i].value, &fields[i].pattern));
    }
    BUILDER_TRY(builder_share(builder, EDGE_SECTION_CONDITION,
                              hash_of(&wanted.entry, sizeof(wanted.entry)) ^
                                  hash_of(fields, route->field_match_count * sizeof(fields[0])),
                              same_condition, &wanted, &slot));
    if (*slot == 0) {
        *slot = builder->section[EDGE_SECTION_CONDITION].count + 1;
        wanted.entry.first_field_match = builder->section[EDGE_SECTION_FIELD_MATCH].count;
        BUILDER_TRY(
            append_list(builder, item, EDGE_SECTION_FIELD_MATCH, fields, route->field_match_count));
        entry = builder_append(builder, EDGE_SECTION_CONDITION, 1, item.number);
        if (entry == NULL)
            return builder_no_memory(builder);
        *entry = wanted.entry;
    }
    *number = *slot;
    return EDGE_OK;
}

int builder_put_route(struct builder *builder, struct item item)
{
    const struct edge_fragment_route *fragment = (const void *)item.head;
    struct edge_image_route copy = {.slot = fragment->route.slot,
                                    .generation = fragment->route.generation,
                                    .precedence = fragment->route.precedence,
                                    .path = fragment->route.path,
                                    .path_written = fragment->route.path_written,
                                    .path_type = fragment->route.path_type,
                                    .rule_index = fragment->route.rule_index,
                                    .path_index = fragment->route.path_index};
    struct edge_image_route *entry;

    BUILDER_TRY(builder_move_text(builder, item, &copy.path, "path"));
    BUILDER_TRY(builder_move_text(builder, item, &copy.path_written, "path_written"));
    if (copy.path_type == EDGE_PATH_REGEX)
        BUILDER_TRY(put_pattern(builder, item, copy.path, &copy.pattern));
    BUILDER_TRY(put_object(builder, item, &fragment->route, &copy.object));
    BUILDER_TRY(put_action(builder, item, fragment, &copy.action));
    BUILDER_TRY(put_condition(builder, item, fragment, &copy.condition));
    entry = builder_append(builder, EDGE_SECTION_ROUTE, 1, item.number);
    if (entry == NULL)
        return builder_no_memory(builder);
    *entry = copy;
    return EDGE_OK;
}
