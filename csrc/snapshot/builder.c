/* The ground that the image builder stands on: see builder.h.
 *
 * Called by the files build*.c. Trusts no fragment: every offset is compared with the size
 * of the fragment that it stands in. */
#include "snapshot/builder.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

int builder_no_memory(struct builder *builder)
{
    return error_set(builder->err, EDGE_ERR_NOMEM, "no memory to build an image");
}

/* ---- Fragments ---- */

static size_t fragment_bytes_min(uint32_t kind)
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

int builder_refuse(struct builder *builder, struct item item, int code, const char *field,
                   const char *reason)
{
    return error_at(builder->err, code, 0, item.number, field, "%s", reason);
}

/* Room for every fragment in each list: two passes would read the heads twice for nothing. */
int builder_collect(struct builder *builder, const uint8_t *fragments, size_t bytes)
{
    size_t at = 0;
    uint32_t number = 0;

    while (at < bytes) {
        struct item item = {(const void *)(fragments + at), number++};
        struct items *items;
        if (bytes - at < sizeof(*item.head) || item.head->bytes > bytes - at)
            return builder_refuse(builder, item, EDGE_ERR_TRUNCATED, "bytes",
                                  "the fragment is cut off");
        if (fragment_bytes_min(item.head->kind) == 0)
            return builder_refuse(builder, item, EDGE_ERR_INVALID, "kind",
                                  "unknown kind of fragment");
        if (item.head->bytes < fragment_bytes_min(item.head->kind) || item.head->bytes % 8 != 0)
            return builder_refuse(builder, item, EDGE_ERR_INVALID, "bytes",
                                  "a size that cannot be");
        if (builder->options->kind == EDGE_IMAGE_PATCH &&
            item.head->kind != EDGE_FRAGMENT_UPSTREAM && item.head->kind != EDGE_FRAGMENT_ENDPOINTS)
            return builder_refuse(builder, item, EDGE_ERR_INVALID, "kind",
                                  "not allowed in a patch");
        items = &builder->items[item.head->kind];
        if ((items->count & (items->count - 1)) == 0) {
            size_t room = items->count == 0 ? 1 : 2 * (size_t)items->count;
            void *grown = realloc(items->at, room * sizeof(item));
            if (grown == NULL)
                return builder_no_memory(builder);
            items->at = grown;
        }
        items->at[items->count++] = item;
        at += item.head->bytes;
    }
    return EDGE_OK;
}

/* An array inside the fragment. */
int builder_array(struct builder *builder, struct item item, uint32_t offset, uint32_t count,
                  size_t entry_bytes, const char *field, const void **out)
{
    *out = (const uint8_t *)item.head + offset;
    if (count == 0)
        return EDGE_OK;
    if (offset % 8 != 0 || offset > item.head->bytes ||
        count > (item.head->bytes - offset) / entry_bytes)
        return builder_refuse(builder, item, EDGE_ERR_TRUNCATED, field,
                              "lies outside its fragment");
    return EDGE_OK;
}

int builder_text(struct builder *builder, struct item item, struct edge_text text,
                 const char *field, struct slice *out)
{
    if (text.offset > item.head->bytes || text.length > item.head->bytes - text.offset)
        return builder_refuse(builder, item, EDGE_ERR_TRUNCATED, field,
                              "lies outside its fragment");
    *out = (struct slice){(const char *)item.head + text.offset, text.length};
    return EDGE_OK;
}

/* ---- Sections ---- */

/* count new zeroed entries; NULL: no memory. */
void *builder_append(struct builder *builder, uint32_t number, uint32_t count, uint32_t origin)
{
    struct section *section = &builder->section[number];
    const size_t entry = image_entry_bytes(number);
    uint8_t *at;

    if (count > EDGE_IMAGE_BYTES_MAX - section->count)
        return NULL;
    if (section->bytes == NULL || section->count + count > section->room) {
        size_t room = 2 * (size_t)section->room + count + 16;
        void *bytes = realloc(section->bytes, room * entry);
        if (bytes == NULL)
            return NULL;
        section->bytes = bytes;
        if (number != EDGE_SECTION_TEXT) {
            void *origins = realloc(section->origin, room * sizeof(uint32_t));
            if (origins == NULL)
                return NULL;
            section->origin = origins;
        }
        section->room = (uint32_t)room;
    }
    at = section->bytes + section->count * entry;
    memset(at, 0, count * entry);
    if (section->origin != NULL)
        for (uint32_t i = 0; i < count; i++)
            section->origin[section->count + i] = origin;
    section->count += count;
    return at;
}

static int grow_interned(struct builder *builder)
{
    uint32_t mask = builder->intern_mask == 0 ? 1023 : 2 * builder->intern_mask + 1;
    uint32_t *offsets = calloc(mask + 1, sizeof(*offsets));
    uint32_t *lengths = calloc(mask + 1, sizeof(*lengths));

    if (offsets == NULL || lengths == NULL) {
        free(offsets);
        free(lengths);
        return builder_no_memory(builder);
    }
    for (uint32_t i = 0; builder->interned != NULL && i <= builder->intern_mask; i++) {
        const char *text = (const char *)builder->section[EDGE_SECTION_TEXT].bytes;
        uint32_t at;
        if (builder->interned[i] == 0)
            continue;
        at = edge_text_hash(text + builder->interned[i] - 1, builder->intern_length[i]) & mask;
        while (offsets[at] != 0)
            at = (at + 1) & mask;
        offsets[at] = builder->interned[i];
        lengths[at] = builder->intern_length[i];
    }
    free(builder->interned);
    free(builder->intern_length);
    builder->interned = offsets;
    builder->intern_length = lengths;
    builder->intern_mask = mask;
    return EDGE_OK;
}

/* The text's place in the text section; the same text is stored once. */
int builder_intern(struct builder *builder, struct slice text, struct edge_text *out)
{
    struct section *section = &builder->section[EDGE_SECTION_TEXT];
    uint32_t at;
    char *copy;

    *out = (struct edge_text){0, (uint32_t)text.length};
    if (text.length == 0)
        return EDGE_OK;
    if (builder->interned == NULL || 2 * builder->intern_count >= builder->intern_mask)
        BUILDER_TRY(grow_interned(builder));
    at = edge_text_hash(text.at, text.length) & builder->intern_mask;
    for (; builder->interned[at] != 0; at = (at + 1) & builder->intern_mask) {
        struct slice known = {(const char *)section->bytes + builder->interned[at] - 1,
                              builder->intern_length[at]};
        if (slice_equal(known, text)) {
            out->offset = builder->interned[at] - 1;
            return EDGE_OK;
        }
    }
    out->offset = section->count;
    copy = builder_append(builder, EDGE_SECTION_TEXT, (uint32_t)text.length, 0);
    if (copy == NULL)
        return builder_no_memory(builder);
    memcpy(copy, text.at, text.length);
    builder->interned[at] = out->offset + 1;
    builder->intern_length[at] = (uint32_t)text.length;
    builder->intern_count++;
    return EDGE_OK;
}

/* Turn a text of the fragment into one of the image, in place in an image entry. */
int builder_move_text(struct builder *builder, struct item item, struct edge_text *text,
                      const char *field)
{
    struct slice slice;

    BUILDER_TRY(builder_text(builder, item, *text, field, &slice));
    return builder_intern(builder, slice, text);
}

static int grow_share(struct builder *builder, struct share *share)
{
    uint32_t mask = share->mask == 0 ? 255 : 2 * share->mask + 1;
    uint32_t *slots = calloc(mask + (size_t)1, 2 * sizeof(*slots));
    uint32_t *hashes = slots + mask + 1;

    if (slots == NULL)
        return builder_no_memory(builder);
    for (uint32_t i = 0; share->slots != NULL && i <= share->mask; i++) {
        uint32_t at = share->hashes[i] & mask;
        if (share->slots[i] == 0)
            continue;
        while (slots[at] != 0)
            at = (at + 1) & mask;
        slots[at] = share->slots[i];
        hashes[at] = share->hashes[i];
    }
    free(share->slots);
    share->slots = slots;
    share->hashes = hashes;
    share->mask = mask;
    return EDGE_OK;
}

int builder_share(struct builder *builder, uint32_t section, uint32_t hash, builder_same *same,
                  const void *wanted, uint32_t **slot)
{
    struct share *share = &builder->share[section];
    uint32_t at;

    if (share->slots == NULL || 2 * share->count >= share->mask)
        BUILDER_TRY(grow_share(builder, share));
    for (at = hash & share->mask; share->slots[at] != 0; at = (at + 1) & share->mask)
        if (share->hashes[at] == hash && same(builder, share->slots[at] - 1, wanted)) {
            *slot = &share->slots[at];
            return EDGE_OK;
        }
    share->hashes[at] = hash;
    share->count++;
    *slot = &share->slots[at];
    return EDGE_OK;
}

int builder_domain(struct builder *builder, struct item item, uint32_t number, struct domain **out)
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
