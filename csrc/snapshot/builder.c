/* The ground that the image builder stands on: see builder.h.
 *
 * Called by the files build*.c. Trusts no fragment: every offset is compared with the size
 * of the fragment that it stands in. */
#include "snapshot/builder.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

int builder_no_memory(struct edge_builder *builder)
{
    return error_set(builder->err, EDGE_ERR_NOMEM, "no memory to build an image");
}

int builder_refuse(struct edge_builder *builder, struct item item, int code, const char *field,
                   const char *reason)
{
    return error_at(builder->err, code, 0, item.number, field, "%s", reason);
}

size_t builder_head_bytes(uint32_t kind)
{
    static const size_t bytes[] = {
        [EDGE_FRAGMENT_LISTENER] = sizeof(struct edge_fragment_listener),
        [EDGE_FRAGMENT_ROUTE] = sizeof(struct edge_fragment_route),
        [EDGE_FRAGMENT_UPSTREAM] = sizeof(struct edge_fragment_upstream),
        [EDGE_FRAGMENT_ENDPOINTS] = sizeof(struct edge_fragment_endpoints),
        [EDGE_FRAGMENT_CERTIFICATE] = sizeof(struct edge_fragment_certificate),
    };
    return kind < sizeof(bytes) / sizeof(bytes[0]) ? bytes[kind] : 0;
}

int builder_array(struct edge_builder *builder, struct item item, uint32_t offset, uint32_t count,
                  size_t entry_bytes, const char *field, const void **out)
{
    *out = (const uint8_t *)item.head + offset;
    if (count == 0)
        return EDGE_OK;
    /* Of a fragment that is kept the array is written: never what says where it stands. */
    if (offset < builder_head_bytes(item.head->kind))
        return builder_refuse(builder, item, EDGE_ERR_INVALID, field, "lies in the struct");
    if (offset % 8 != 0 || offset > item.head->bytes ||
        count > (item.head->bytes - offset) / entry_bytes)
        return builder_refuse(builder, item, EDGE_ERR_TRUNCATED, field,
                              "lies outside its fragment");
    return EDGE_OK;
}

int builder_text(struct edge_builder *builder, struct item item, struct edge_text text,
                 const char *field, struct slice *out)
{
    if (text.offset > item.head->bytes || text.length > item.head->bytes - text.offset)
        return builder_refuse(builder, item, EDGE_ERR_TRUNCATED, field,
                              "lies outside its fragment");
    *out = (struct slice){(const char *)item.head + text.offset, text.length};
    return EDGE_OK;
}

int builder_keep(struct edge_builder *builder, struct item item, struct edge_text text,
                 const char *field, uint32_t *id)
{
    struct slice slice = {0};
    bool fresh;

    BUILDER_TRY(builder_text(builder, item, text, field, &slice));
    *id = atoms_get(&builder->texts, slice.at, (uint32_t)slice.length, &fresh);
    return *id == ATOM_NONE ? builder_no_memory(builder) : EDGE_OK;
}

void builder_forget(struct edge_builder *builder, uint32_t text)
{
    if (atoms_release(&builder->texts, text))
        atoms_remove(&builder->texts, text);
}

int builder_room(struct edge_builder *builder, void *array, uint32_t *room, uint32_t count,
                 size_t element)
{
    uint32_t wanted = *room;
    void *old, *grown;

    if (count <= wanted)
        return EDGE_OK;
    while (wanted < count)
        wanted = 2 * wanted + (element > 8 ? 16 : 2);
    memcpy(&old, array, sizeof(old));
    grown = realloc(old, wanted * element);
    if (grown == NULL)
        return builder_no_memory(builder);
    memcpy(array, &grown, sizeof(grown));
    *room = wanted;
    return EDGE_OK;
}

/* ---- Sections ---- */

static bool grow_section(struct section *section, uint32_t number, uint32_t count)
{
    const size_t entry = image_entry_bytes(number);
    const size_t room = 2 * (size_t)section->room + count + 16;
    void *bytes = realloc(section->bytes, room * entry), *origins;

    if (bytes == NULL)
        return false;
    section->bytes = bytes;
    if (number != EDGE_SECTION_TEXT) {
        origins = realloc(section->origin, room * sizeof(uint32_t));
        if (origins == NULL)
            return false;
        section->origin = origins;
    }
    section->room = (uint32_t)room;
    return true;
}

void *builder_append(struct edge_builder *builder, uint32_t number, uint32_t count, uint32_t origin)
{
    struct section *section = &builder->section[number];
    const size_t entry = image_entry_bytes(number);
    uint8_t *at;

    if (count > EDGE_IMAGE_BYTES_MAX - section->count)
        return NULL;
    if ((section->bytes == NULL || section->count + count > section->room) &&
        !grow_section(section, number, count))
        return NULL;
    at = section->bytes + section->count * entry;
    memset(at, 0, count * entry);
    if (section->origin != NULL)
        for (uint32_t i = 0; i < count; i++)
            section->origin[section->count + i] = origin;
    section->count += count;
    return at;
}

int builder_place(struct edge_builder *builder, uint32_t text, struct edge_text *out)
{
    struct section *section = &builder->section[EDGE_SECTION_TEXT];
    const struct atom *entry = &builder->texts.at[text];
    uint32_t *place = &builder->texts.place[text];

    *out = (struct edge_text){*place, entry->length};
    if (*place != ATOM_NONE)
        return EDGE_OK;
    *place = out->offset = entry->length == 0 ? 0 : section->count;
    if (entry->length == 0)
        return EDGE_OK;
    if (entry->length > EDGE_IMAGE_BYTES_MAX - section->count)
        return builder_no_memory(builder);
    if (section->count + entry->length > section->room &&
        !grow_section(section, EDGE_SECTION_TEXT, entry->length))
        return builder_no_memory(builder);
    memcpy(section->bytes + section->count, entry->bytes, entry->length);
    section->count += entry->length;
    return EDGE_OK;
}

int builder_domain(struct edge_builder *builder, struct item item, uint32_t number,
                   struct domain **out)
{
    for (uint32_t i = 0; i < builder->domain_count; i++)
        if (builder->domain[i].number == number) {
            *out = &builder->domain[i];
            return EDGE_OK;
        }
    if (builder->domain_count == LIMIT_DOMAINS)
        return builder_refuse(builder, item, EDGE_ERR_LIMIT, "domain", "too many domains");
    *out = &builder->domain[builder->domain_count++];
    **out = (struct domain){.number = number};
    return EDGE_OK;
}

uint32_t builder_buckets(uint32_t names)
{
    uint32_t buckets = 1;

    while (names > 0 && 4 * (uint64_t)buckets < 5 * (uint64_t)names + 1)
        buckets *= 2;
    return buckets;
}
