/* The part of the image builder that lays out one route, and what it shares with other routes.
 *
 * Called by build_hosts.c. Objects, actions, conditions and patterns that are equal are stored
 * once. What a value may be is the check's business. */
#include <stdlib.h>
#include <string.h>

#include "snapshot/builder.h"

/* Entries of all; all texts are numbers. Their bytes are compared: nothing in them is padding. */
struct object_key {
    uint32_t kind, space, name;
};

struct action_key { /* followed by filters and references */
    uint32_t flags, filter_count, reference_count, service;
    uint64_t body_bytes_max;
};

struct condition_key { /* followed by fields: name.offset and value.offset are texts */
    int64_t not_before_s, not_after_s;
    uint64_t field_count;
};

static int get(struct edge_builder *builder, struct atoms *atoms, const void *key, size_t length,
               uint32_t *id, bool *fresh)
{
    *id = atoms_get(atoms, key, (uint32_t)length, fresh);
    return *id == ATOM_NONE ? builder_no_memory(builder) : EDGE_OK;
}

/* ---- Objects ---- */

static void forget_object(struct edge_builder *builder, const struct object_key *key)
{
    builder_forget(builder, key->kind);
    builder_forget(builder, key->space);
    builder_forget(builder, key->name);
}

static int keep_object(struct edge_builder *builder, struct item item,
                       const struct edge_route *route, uint32_t *id)
{
    struct object_key key;
    bool fresh;

    BUILDER_TRY(builder_keep(builder, item, route->kind, "kind", &key.kind));
    BUILDER_TRY(
        builder_keep(builder, item, route->object_namespace, "object_namespace", &key.space));
    BUILDER_TRY(builder_keep(builder, item, route->object_name, "object_name", &key.name));
    BUILDER_TRY(get(builder, &builder->objects, &key, sizeof(key), id, &fresh));
    if (!fresh)
        forget_object(builder, &key);
    return EDGE_OK;
}

static int lay_object(struct edge_builder *builder, uint32_t id, uint32_t origin, uint32_t *index)
{
    struct object_key key;
    struct edge_image_object *entry;

    *index = builder->objects.place[id];
    if (*index != ATOM_NONE)
        return EDGE_OK;
    *index = builder->objects.place[id] = builder->section[EDGE_SECTION_OBJECT].count;
    memcpy(&key, builder->objects.at[id].bytes, sizeof(key));
    entry = builder_append(builder, EDGE_SECTION_OBJECT, 1, origin);
    if (entry == NULL)
        return builder_no_memory(builder);
    BUILDER_TRY(builder_place(builder, key.kind, &entry->kind));
    BUILDER_TRY(builder_place(builder, key.space, &entry->object_namespace));
    return builder_place(builder, key.name, &entry->object_name);
}

/* ---- Actions ---- */

static size_t action_bytes(const struct action_key *key)
{
    return sizeof(*key) + key->filter_count * sizeof(struct edge_image_filter) +
           key->reference_count * sizeof(struct edge_image_reference);
}

static int keep_action(struct edge_builder *builder, struct item item,
                       const struct edge_fragment_route *fragment, uint32_t *id)
{
    const struct edge_route *route = &fragment->route;
    struct action_key key = {.flags = route->flags,
                             .filter_count = route->filter_count,
                             .reference_count = route->reference_count,
                             .body_bytes_max = route->body_bytes_max};
    const void *filters, *references;
    uint8_t *whole, *end;
    bool fresh;
    int rc;

    BUILDER_TRY(builder_array(builder, item, fragment->filters_offset, key.filter_count,
                              sizeof(struct edge_image_filter), "filters_offset", &filters));
    BUILDER_TRY(builder_array(builder, item, fragment->references_offset, key.reference_count,
                              sizeof(struct edge_image_reference), "references_offset",
                              &references));
    BUILDER_TRY(builder_keep(builder, item, route->service, "service", &key.service));
    whole = malloc(action_bytes(&key));
    if (whole == NULL)
        return builder_no_memory(builder);
    memcpy(whole, &key, sizeof(key));
    end = whole + sizeof(key);
    if (key.filter_count > 0)
        memcpy(end, filters, key.filter_count * sizeof(struct edge_image_filter));
    end += key.filter_count * sizeof(struct edge_image_filter);
    if (key.reference_count > 0)
        memcpy(end, references, key.reference_count * sizeof(struct edge_image_reference));
    rc = get(builder, &builder->actions, whole, action_bytes(&key), id, &fresh);
    free(whole);
    BUILDER_TRY(rc);
    if (!fresh)
        builder_forget(builder, key.service);
    return EDGE_OK;
}

static int lay_list(struct edge_builder *builder, uint32_t section, const void *entries,
                    uint32_t count, uint32_t origin, uint32_t *first)
{
    void *copy;

    *first = builder->section[section].count;
    if (count == 0)
        return EDGE_OK;
    copy = builder_append(builder, section, count, origin);
    if (copy == NULL)
        return builder_no_memory(builder);
    memcpy(copy, entries, count * (size_t)image_entry_bytes(section));
    return EDGE_OK;
}

static int lay_action(struct edge_builder *builder, uint32_t id, uint32_t origin, uint32_t *index)
{
    const uint8_t *bytes = builder->actions.at[id].bytes;
    struct edge_image_action copy, *entry;
    struct action_key key;

    *index = builder->actions.place[id];
    if (*index != ATOM_NONE)
        return EDGE_OK;
    *index = builder->actions.place[id] = builder->section[EDGE_SECTION_ACTION].count;
    memcpy(&key, bytes, sizeof(key));
    copy = (struct edge_image_action){.flags = key.flags,
                                      .filter_count = key.filter_count,
                                      .reference_count = key.reference_count,
                                      .body_bytes_max = key.body_bytes_max};
    bytes += sizeof(key);
    BUILDER_TRY(lay_list(builder, EDGE_SECTION_FILTER, bytes, key.filter_count, origin,
                         &copy.first_filter));
    bytes += key.filter_count * sizeof(struct edge_image_filter);
    BUILDER_TRY(lay_list(builder, EDGE_SECTION_REFERENCE, bytes, key.reference_count, origin,
                         &copy.first_reference));
    BUILDER_TRY(builder_place(builder, key.service, &copy.service));
    entry = builder_append(builder, EDGE_SECTION_ACTION, 1, origin);
    if (entry == NULL)
        return builder_no_memory(builder);
    *entry = copy;
    return EDGE_OK;
}

/* ---- Conditions and patterns ---- */

struct condition {
    struct condition_key key;
    struct edge_image_field_match fields[LIMIT_FIELD_MATCHES];
};

static size_t condition_bytes(uint64_t fields)
{
    return offsetof(struct condition, fields) + fields * sizeof(struct edge_image_field_match);
}

static void forget_condition(struct edge_builder *builder, const struct condition *condition)
{
    for (uint64_t i = 0; i < condition->key.field_count; i++) {
        builder_forget(builder, condition->fields[i].name.offset);
        builder_forget(builder, condition->fields[i].value.offset);
    }
}

static int keep_condition(struct edge_builder *builder, struct item item,
                          const struct edge_fragment_route *fragment, uint32_t *id)
{
    const struct edge_route *route = &fragment->route;
    const uint32_t count = route->field_match_count;
    struct condition whole;
    const void *given;
    bool fresh;

    *id = ATOM_NONE;
    if (count == 0 && route->not_before_s == 0 && route->not_after_s == 0)
        return EDGE_OK;
    if (count > LIMIT_FIELD_MATCHES)
        return builder_refuse(builder, item, EDGE_ERR_LIMIT, "field_match_count", "too many");
    BUILDER_TRY(builder_array(builder, item, fragment->fields_offset, count,
                              sizeof(whole.fields[0]), "fields_offset", &given));
    whole.key = (struct condition_key){route->not_before_s, route->not_after_s, count};
    if (count > 0)
        memcpy(whole.fields, given, count * sizeof(whole.fields[0]));
    for (uint32_t i = 0; i < count; i++) {
        struct edge_image_field_match *field = &whole.fields[i];
        if (field->pattern != 0)
            return builder_refuse(builder, item, EDGE_ERR_INVALID, "pattern", "must be zero");
        BUILDER_TRY(builder_keep(builder, item, field->name, "name", &field->name.offset));
        BUILDER_TRY(builder_keep(builder, item, field->value, "value", &field->value.offset));
        builder->has_patterns |= field->type == EDGE_FIELD_REGEX;
    }
    BUILDER_TRY(get(builder, &builder->conditions, &whole, condition_bytes(count), id, &fresh));
    if (!fresh)
        forget_condition(builder, &whole);
    return EDGE_OK;
}

/* *number: index + 1. The text was placed. */
static int lay_pattern(struct edge_builder *builder, uint32_t text, uint32_t origin,
                       uint32_t *number)
{
    struct edge_image_pattern *entry;

    *number = builder->patterns[text];
    if (*number != 0)
        return EDGE_OK;
    entry = builder_append(builder, EDGE_SECTION_PATTERN, 1, origin);
    if (entry == NULL)
        return builder_no_memory(builder);
    *number = builder->patterns[text] = builder->section[EDGE_SECTION_PATTERN].count;
    return builder_place(builder, text, &entry->text);
}

/* *number: index + 1, 0: the route has none. */
static int lay_condition(struct edge_builder *builder, uint32_t id, uint32_t origin,
                         uint32_t *number)
{
    struct edge_image_condition *entry;
    struct condition whole;
    uint32_t first;

    *number = 0;
    if (id == ATOM_NONE)
        return EDGE_OK;
    if (builder->conditions.place[id] != ATOM_NONE) {
        *number = builder->conditions.place[id] + 1;
        return EDGE_OK;
    }
    memcpy(&whole, builder->conditions.at[id].bytes, builder->conditions.at[id].length);
    for (uint64_t i = 0; i < whole.key.field_count; i++) {
        struct edge_image_field_match *field = &whole.fields[i];
        const uint32_t value = field->value.offset;
        BUILDER_TRY(builder_place(builder, field->name.offset, &field->name));
        BUILDER_TRY(builder_place(builder, value, &field->value));
        if (field->type == EDGE_FIELD_REGEX)
            BUILDER_TRY(lay_pattern(builder, value, origin, &field->pattern));
    }
    BUILDER_TRY(lay_list(builder, EDGE_SECTION_FIELD_MATCH, whole.fields,
                         (uint32_t)whole.key.field_count, origin, &first));
    builder->conditions.place[id] = builder->section[EDGE_SECTION_CONDITION].count;
    *number = builder->conditions.place[id] + 1;
    entry = builder_append(builder, EDGE_SECTION_CONDITION, 1, origin);
    if (entry == NULL)
        return builder_no_memory(builder);
    *entry = (struct edge_image_condition){
        .first_field_match = first,
        .field_match_count = (uint32_t)whole.key.field_count,
        .not_before_s = whole.key.not_before_s,
        .not_after_s = whole.key.not_after_s,
    };
    return EDGE_OK;
}

/* ---- Routes ---- */

int builder_read_route(struct edge_builder *builder, struct item item, struct route *route)
{
    const struct edge_fragment_route *fragment = (const void *)item.head;
    const struct edge_route *given = &fragment->route;

    route->entry = (struct edge_image_route){.slot = given->slot,
                                             .generation = given->generation,
                                             .precedence = given->precedence,
                                             .path_type = given->path_type,
                                             .rule_index = given->rule_index,
                                             .path_index = given->path_index};
    route->created_s = given->created_s;
    route->fall_through = fragment->fall_through != 0;
    route->number = item.number;
    BUILDER_TRY(builder_keep(builder, item, given->path, "path", &route->path));
    if (given->path.length > LIMIT_PATH_BYTES)
        return builder_refuse(builder, item, EDGE_ERR_LIMIT, "path", "too long");
    BUILDER_TRY(builder_keep(builder, item, given->path_written, "path_written", &route->written));
    builder->has_patterns |= given->path_type == EDGE_PATH_REGEX;
    BUILDER_TRY(keep_object(builder, item, given, &route->object));
    BUILDER_TRY(keep_action(builder, item, fragment, &route->action));
    return keep_condition(builder, item, fragment, &route->condition);
}

void builder_release_route(struct edge_builder *builder, const struct route *route)
{
    builder_forget(builder, route->path);
    builder_forget(builder, route->written);
    if (atoms_release(&builder->objects, route->object)) {
        forget_object(builder, (const void *)builder->objects.at[route->object].bytes);
        atoms_remove(&builder->objects, route->object);
    }
    if (atoms_release(&builder->actions, route->action)) {
        const struct action_key *key = (const void *)builder->actions.at[route->action].bytes;
        builder_forget(builder, key->service);
        atoms_remove(&builder->actions, route->action);
    }
    if (route->condition != ATOM_NONE && atoms_release(&builder->conditions, route->condition)) {
        forget_condition(builder, (const void *)builder->conditions.at[route->condition].bytes);
        atoms_remove(&builder->conditions, route->condition);
    }
}

int builder_lay_route(struct edge_builder *builder, const struct route *route, uint32_t next)
{
    struct edge_image_route copy = route->entry, *entry;
    const uint32_t origin = route->number;

    copy.next = next;
    BUILDER_TRY(builder_place(builder, route->path, &copy.path));
    BUILDER_TRY(builder_place(builder, route->written, &copy.path_written));
    if (copy.path_type == EDGE_PATH_REGEX)
        BUILDER_TRY(lay_pattern(builder, route->path, origin, &copy.pattern));
    BUILDER_TRY(lay_object(builder, route->object, origin, &copy.object));
    BUILDER_TRY(lay_action(builder, route->action, origin, &copy.action));
    BUILDER_TRY(lay_condition(builder, route->condition, origin, &copy.condition));
    entry = builder_append(builder, EDGE_SECTION_ROUTE, 1, origin);
    if (entry == NULL)
        return builder_no_memory(builder);
    *entry = copy;
    return EDGE_OK;
}
