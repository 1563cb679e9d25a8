/* The one validator of images. Total: after EDGE_OK nothing in the image needs a check.
 *
 * Called by edge_image_check's users: the controller after a build, the data plane before it makes
 * a view, `edge explain`, the fuzzer. Reads only inside [bytes, bytes + size), never writes.
 *
 * Strict on purpose: sections and every list inside them lie without gaps or overlaps, in order,
 * so "first_x" fields have one right value each; what this version does not use must be zero. */
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "snapshot/image.h"
#include "snapshot/limits.h"

struct walk {
    struct image image;
    struct edge_error *err;
    uint32_t section; /* where the walk is, for errors */
    uint32_t index;
};

#define REFUSE(walk, code, field, ...)                                                             \
    return error_at((walk)->err, (code), (walk)->section, (walk)->index, (field), __VA_ARGS__)

static bool all_zero(const void *bytes, size_t length)
{
    const uint8_t *at = bytes;

    for (size_t i = 0; i < length; i++)
        if (at[i] != 0)
            return false;
    return true;
}

static int check_header(const uint8_t *bytes, size_t size, struct edge_error *err)
{
    const struct edge_image_header *header = (const void *)bytes;

    if (size < sizeof(*header))
        return error_set(err, EDGE_ERR_TRUNCATED, "%zu bytes are no image", size);
    if ((uintptr_t)bytes % 8 != 0)
        return error_set(err, EDGE_ERR_INVALID, "the image does not start at a multiple of 8");
    if (header->magic != EDGE_IMAGE_MAGIC)
        return error_set(err, EDGE_ERR_INVALID, "these bytes are no image");
    if (header->abi != EDGE_ABI_VERSION)
        return error_set(err, EDGE_ERR_ABI, "image of version %" PRIu32 ", this is %d", header->abi,
                         EDGE_ABI_VERSION);
    if (size > EDGE_IMAGE_BYTES_MAX)
        return error_set(err, EDGE_ERR_LIMIT, "%zu bytes are too many", size);
    if (header->total_bytes != size || size % 8 != 0)
        return error_set(err, EDGE_ERR_TRUNCATED, "%zu bytes where the header says %" PRIu64, size,
                         header->total_bytes);
    if (header->checksum != image_checksum(bytes, size))
        return error_set(err, EDGE_ERR_CHECKSUM, "the image's checksum is wrong");
    if (header->kind != EDGE_IMAGE_FULL && header->kind != EDGE_IMAGE_PATCH)
        return error_at(err, EDGE_ERR_INVALID, 0, 0, "kind", "unknown kind %" PRIu32, header->kind);
    if (header->version == 0)
        return error_at(err, EDGE_ERR_INVALID, 0, 0, "version", "versions begin with 1");
    if (header->kind == EDGE_IMAGE_FULL
            ? header->base_version != 0
            : header->base_version == 0 || header->base_version >= header->version)
        return error_at(err, EDGE_ERR_INVALID, 0, 0, "base_version", "does not fit the kind");
    if (header->reserved != 0)
        return error_at(err, EDGE_ERR_INVALID, 0, 0, "reserved", "must be zero");
    if (header->section_count != EDGE_SECTION_COUNT - 1)
        return error_at(err, EDGE_ERR_SECTION, 0, 0, "section_count", "%" PRIu32 " sections",
                        header->section_count);
    return EDGE_OK;
}

static bool in_patch(uint32_t section)
{
    return section == EDGE_SECTION_UPSTREAM || section == EDGE_SECTION_ENDPOINT ||
           section == EDGE_SECTION_TEXT;
}

/* Sections follow each other without gaps but the zeroed bytes that align the next. */
static int check_sections(const uint8_t *bytes, struct edge_error *err)
{
    const struct edge_image_header *header = (const void *)bytes;
    uint64_t expected = sizeof(*header);

    if (!all_zero(&header->section[0], sizeof(header->section[0])))
        return error_at(err, EDGE_ERR_SECTION, 0, 0, "section", "section 0 must be zero");
    for (uint32_t i = 1; i < EDGE_SECTION_COUNT; i++) {
        const struct edge_section_entry *section = &header->section[i];
        uint64_t end;
        if (section->entry_bytes != image_entry_bytes(i))
            return error_at(err, EDGE_ERR_SECTION, i, 0, "entry_bytes", "not this version's");
        if (section->offset != expected)
            return error_at(err, EDGE_ERR_SECTION, i, 0, "offset", "misplaced");
        if (section->count > limit_of(i))
            return error_at(err, EDGE_ERR_LIMIT, i, 0, "count", "%" PRIu32 " entries",
                            section->count);
        if (header->kind == EDGE_IMAGE_PATCH && section->count != 0 && !in_patch(i))
            return error_at(err, EDGE_ERR_SECTION, i, 0, "count", "a patch cannot hold this");
        end = section->offset + (uint64_t)section->count * section->entry_bytes;
        expected = (end + 7) & ~UINT64_C(7);
        if (expected > header->total_bytes)
            return error_at(err, EDGE_ERR_TRUNCATED, i, 0, "count", "the section does not fit");
        if (!all_zero(bytes + end, expected - end))
            return error_at(err, EDGE_ERR_INVALID, i, 0, "padding", "must be zero");
    }
    if (expected != header->total_bytes)
        return error_at(err, EDGE_ERR_SECTION, EDGE_SECTION_TEXT, 0, "count", "bytes left over");
    return EDGE_OK;
}

static int check_text(struct walk *walk, struct edge_text text, const char *field, uint32_t max)
{
    const uint32_t total = walk->image.count[EDGE_SECTION_TEXT];

    if (text.offset > total || text.length > total - text.offset)
        REFUSE(walk, EDGE_ERR_REFERENCE, field, "the text lies outside the text section");
    if (text.length > max)
        REFUSE(walk, EDGE_ERR_LIMIT, field, "a text of %" PRIu32 " bytes", text.length);
    return EDGE_OK;
}

/* A list of another section, which must begin where the one before ended. */
static int check_list(struct walk *walk, uint32_t first, uint32_t count, uint32_t section,
                      uint32_t *cursor, const char *field)
{
    if (first != *cursor)
        REFUSE(walk, EDGE_ERR_REFERENCE, field, "is %" PRIu32 ", not %" PRIu32, first, *cursor);
    if (count > walk->image.count[section] - *cursor)
        REFUSE(walk, EDGE_ERR_REFERENCE, field, "%" PRIu32 " entries do not fit", count);
    *cursor += count;
    return EDGE_OK;
}

static int check_used_up(struct walk *walk, uint32_t section, uint32_t cursor)
{
    walk->section = section;
    walk->index = cursor;
    if (cursor != walk->image.count[section])
        REFUSE(walk, EDGE_ERR_REFERENCE, "", "belongs to nothing");
    return EDGE_OK;
}

static int mark_slot(struct walk *walk, uint64_t *seen, uint32_t slot, uint32_t slots)
{
    if (slot >= slots)
        REFUSE(walk, EDGE_ERR_LIMIT, "slot", "%" PRIu32 " is over the limit", slot);
    if (seen[slot / 64] >> (slot % 64) & 1)
        REFUSE(walk, EDGE_ERR_INVALID, "slot", "%" PRIu32 " is used twice", slot);
    seen[slot / 64] |= UINT64_C(1) << (slot % 64);
    return EDGE_OK;
}

#define TRY(call)                                                                                  \
    do {                                                                                           \
        int try_rc = (call);                                                                       \
        if (try_rc != EDGE_OK)                                                                     \
            return try_rc;                                                                         \
    } while (0)

static int check_all_text(struct walk *walk)
{
    walk->section = EDGE_SECTION_TEXT;
    for (uint32_t i = 0; i < walk->image.count[EDGE_SECTION_TEXT]; i++) {
        unsigned char c = (unsigned char)walk->image.text[i];
        walk->index = i;
        if (c < 0x20 || c == 0x7f) /* texts go to logs and header fields as they are */
            REFUSE(walk, EDGE_ERR_INVALID, "", "a control character");
    }
    return EDGE_OK;
}

static bool address_given(const uint8_t address[16])
{
    static const uint8_t mapped_any[16] = {[10] = 0xff, [11] = 0xff};

    return !all_zero(address, 16) && memcmp(address, mapped_any, 16) != 0;
}

static int check_listeners(struct walk *walk)
{
    const struct image *image = &walk->image;
    uint64_t seen[(EDGE_LISTENER_SLOTS + 63) / 64] = {0};
    uint32_t trusted = 0;

    for (uint32_t i = 0; i < image->count[EDGE_SECTION_LISTENER]; i++) {
        const struct edge_image_listener *it = &image->listeners[i];
        walk->section = EDGE_SECTION_LISTENER;
        walk->index = i;
        TRY(mark_slot(walk, seen, it->slot, EDGE_LISTENER_SLOTS));
        if (it->port == 0)
            REFUSE(walk, EDGE_ERR_INVALID, "port", "is zero");
        if (it->transport != EDGE_TRANSPORT_PLAIN && it->transport != EDGE_TRANSPORT_TLS)
            REFUSE(walk, EDGE_ERR_INVALID, "transport", "unknown");
        if (it->proxy_protocol != 0)
            REFUSE(walk, EDGE_ERR_INVALID, "proxy_protocol", "not in this version");
        if (it->host_table >= image->count[EDGE_SECTION_HOST_TABLE])
            REFUSE(walk, EDGE_ERR_REFERENCE, "host_table", "not there");
        if (it->transport == EDGE_TRANSPORT_PLAIN ? it->sni_table != 0 : it->sni_table == 0)
            REFUSE(walk, EDGE_ERR_INVALID, "sni_table", "does not fit the transport");
        if (it->sni_table > image->count[EDGE_SECTION_SNI_TABLE])
            REFUSE(walk, EDGE_ERR_REFERENCE, "sni_table", "not there");
        TRY(check_list(walk, it->first_trusted, it->trusted_count, EDGE_SECTION_PREFIX, &trusted,
                       "first_trusted"));
        if (it->head_bytes_max < LIMIT_HEAD_BYTES_MIN || it->head_bytes_max > LIMIT_HEAD_BYTES_MAX)
            REFUSE(walk, EDGE_ERR_LIMIT, "head_bytes_max", "%" PRIu32, it->head_bytes_max);
        if (it->target_bytes_max == 0 || it->target_bytes_max > it->head_bytes_max)
            REFUSE(walk, EDGE_ERR_LIMIT, "target_bytes_max", "%" PRIu32, it->target_bytes_max);
        if (it->idle_ms == 0 || it->idle_ms > LIMIT_MILLISECONDS)
            REFUSE(walk, EDGE_ERR_LIMIT, "idle_ms", "%" PRIu32, it->idle_ms);
        if (it->head_ms == 0 || it->head_ms > LIMIT_MILLISECONDS)
            REFUSE(walk, EDGE_ERR_LIMIT, "head_ms", "%" PRIu32, it->head_ms);
        if (!all_zero(it->reserved, sizeof(it->reserved)))
            REFUSE(walk, EDGE_ERR_INVALID, "reserved", "must be zero");
    }
    TRY(check_used_up(walk, EDGE_SECTION_PREFIX, trusted));
    for (uint32_t i = 0; i < image->count[EDGE_SECTION_PREFIX]; i++) {
        walk->index = i;
        if (image->prefixes[i].bits > 128)
            REFUSE(walk, EDGE_ERR_LIMIT, "bits", "%" PRIu32, image->prefixes[i].bits);
        if (image->prefixes[i].reserved != 0)
            REFUSE(walk, EDGE_ERR_INVALID, "reserved", "must be zero");
    }
    return EDGE_OK;
}

/* Lower case, and for a wildcard ".suffix" with something behind the dot. */
static int check_name(struct walk *walk, struct edge_text name, uint32_t wildcard, uint32_t hash)
{
    const char *text;

    TRY(check_text(walk, name, "name", LIMIT_NAME_BYTES));
    text = walk->image.text + name.offset;
    if (wildcard > 1)
        REFUSE(walk, EDGE_ERR_INVALID, "wildcard", "is neither 0 nor 1");
    if (wildcard ? name.length < 2 || text[0] != '.' : text[0] == '.')
        REFUSE(walk, EDGE_ERR_INVALID, "name", "does not fit the wildcard mark");
    for (uint32_t i = 0; i < name.length; i++)
        if ((text[i] >= 'A' && text[i] <= 'Z') || text[i] == ' ' || text[i] == '/')
            REFUSE(walk, EDGE_ERR_INVALID, "name", "a character that no lower-case name has");
    if (hash != edge_text_hash(text, name.length))
        REFUSE(walk, EDGE_ERR_INVALID, "hash", "is not that of the name");
    return EDGE_OK;
}

struct bucket {
    struct edge_text name;
    uint32_t hash;
    uint32_t wildcard;
};

static struct bucket bucket_at(const struct image *image, bool server_names, uint32_t index)
{
    if (server_names) {
        const struct edge_image_sni_entry *entry = &image->sni_entries[index];
        return (struct bucket){entry->name, entry->hash, entry->wildcard};
    }
    const struct edge_image_host_entry *entry = &image->host_entries[index];
    return (struct bucket){entry->name, entry->hash, entry->wildcard};
}

/* One table: every name is found where a lookup looks first, and every lookup ends. */
static int check_buckets(struct walk *walk, const struct edge_image_table *table, bool server_names)
{
    const struct image *image = &walk->image;
    uint32_t empty = 0;

    walk->section = server_names ? EDGE_SECTION_SNI_ENTRY : EDGE_SECTION_HOST_ENTRY;
    for (uint32_t i = 0; i <= table->mask; i++)
        empty += bucket_at(image, server_names, table->first_entry + i).name.length == 0;
    if (empty == 0)
        REFUSE(walk, EDGE_ERR_INVALID, "name", "a table without an empty bucket");
    for (uint32_t i = 0; i <= table->mask; i++) {
        struct bucket it = bucket_at(image, server_names, table->first_entry + i);
        walk->index = table->first_entry + i;
        if (it.name.length == 0)
            continue;
        TRY(check_name(walk, it.name, it.wildcard, it.hash));
        for (uint32_t at = it.hash & table->mask; at != i; at = (at + 1) & table->mask) {
            struct bucket other = bucket_at(image, server_names, table->first_entry + at);
            if (other.name.length == 0)
                REFUSE(walk, EDGE_ERR_INVALID, "hash", "no lookup comes to this bucket");
            if (other.hash == it.hash && other.wildcard == it.wildcard &&
                other.name.length == it.name.length &&
                other.name.offset <= image->count[EDGE_SECTION_TEXT] &&
                it.name.length <= image->count[EDGE_SECTION_TEXT] - other.name.offset &&
                slice_equal(image_text(image, other.name), image_text(image, it.name)))
                REFUSE(walk, EDGE_ERR_INVALID, "name", "stands twice in its table");
        }
    }
    return EDGE_OK;
}

/* All tables of a kind: they take the entries in order; *used: entries that are buckets. */
static int check_tables(struct walk *walk, bool server_names, uint32_t *used)
{
    const struct image *image = &walk->image;
    const uint32_t section = server_names ? EDGE_SECTION_SNI_TABLE : EDGE_SECTION_HOST_TABLE;
    const struct edge_image_table *tables = server_names ? image->sni_tables : image->host_tables;

    *used = 0;
    for (uint32_t i = 0; i < image->count[section]; i++) {
        walk->section = section;
        walk->index = i;
        if (tables[i].mask > LIMIT_BUCKETS - 1 || (tables[i].mask & (tables[i].mask + 1)) != 0)
            REFUSE(walk, EDGE_ERR_INVALID, "mask", "not a power of two minus one");
        if (tables[i].reserved != 0)
            REFUSE(walk, EDGE_ERR_INVALID, "reserved", "must be zero");
        TRY(check_list(walk, tables[i].first_entry, tables[i].mask + 1, section + 1, used,
                       "first_entry"));
        TRY(check_buckets(walk, &tables[i], server_names));
    }
    return EDGE_OK;
}

static int check_server_names(struct walk *walk)
{
    const struct image *image = &walk->image;
    const uint32_t certificates = image->count[EDGE_SECTION_CERTIFICATE];
    uint32_t used;

    TRY(check_tables(walk, true, &used));
    TRY(check_used_up(walk, EDGE_SECTION_SNI_ENTRY, used));
    walk->section = EDGE_SECTION_SNI_TABLE;
    for (uint32_t i = 0; i < image->count[EDGE_SECTION_SNI_TABLE]; i++) {
        walk->index = i;
        if (image->sni_tables[i].fallback > certificates)
            REFUSE(walk, EDGE_ERR_REFERENCE, "fallback", "no such certificate");
    }
    walk->section = EDGE_SECTION_SNI_ENTRY;
    for (uint32_t i = 0; i < used; i++) {
        const struct edge_image_sni_entry *it = &image->sni_entries[i];
        walk->index = i;
        if (it->name.length == 0) {
            if (!all_zero(it, sizeof(*it)))
                REFUSE(walk, EDGE_ERR_INVALID, "", "an empty bucket must be zero");
            continue;
        }
        if (it->action != EDGE_SNI_TERMINATE)
            REFUSE(walk, EDGE_ERR_INVALID, "action", "not in this version");
        if (it->certificate >= certificates)
            REFUSE(walk, EDGE_ERR_REFERENCE, "certificate", "not there");
    }
    return EDGE_OK;
}

/* Exact before prefix, longer before shorter; precedence stands above both. */
static bool in_order(const struct edge_image_route *a, const struct edge_image_route *b)
{
    if (a->precedence != b->precedence)
        return a->precedence < b->precedence;
    if (a->path_type != b->path_type)
        return a->path_type < b->path_type;
    return a->path.length >= b->path.length;
}

static int check_hosts(struct walk *walk)
{
    const struct image *image = &walk->image;
    uint32_t buckets, routes = 0, any_hosts;

    TRY(check_tables(walk, false, &buckets));
    any_hosts = buckets;
    walk->section = EDGE_SECTION_HOST_TABLE;
    for (uint32_t i = 0; i < image->count[EDGE_SECTION_HOST_TABLE]; i++) {
        walk->index = i;
        if (image->host_tables[i].fallback == 0)
            continue;
        /* The "any host" entries stand behind all buckets, in the order of their tables. */
        if (image->host_tables[i].fallback - 1 != any_hosts ||
            any_hosts >= image->count[EDGE_SECTION_HOST_ENTRY])
            REFUSE(walk, EDGE_ERR_REFERENCE, "fallback", "is not the next any-host entry");
        any_hosts++;
    }
    TRY(check_used_up(walk, EDGE_SECTION_HOST_ENTRY, any_hosts));
    for (uint32_t i = 0; i < any_hosts; i++) {
        const struct edge_image_host_entry *it = &image->host_entries[i];
        walk->section = EDGE_SECTION_HOST_ENTRY;
        walk->index = i;
        if (it->name.length == 0 && i < buckets) {
            if (!all_zero(it, sizeof(*it)))
                REFUSE(walk, EDGE_ERR_INVALID, "", "an empty bucket must be zero");
            continue;
        }
        if (i >= buckets &&
            (it->name.length != 0 || it->name.offset != 0 || it->hash != 0 || it->wildcard != 0))
            REFUSE(walk, EDGE_ERR_INVALID, "name", "an any-host entry has no name");
        if (it->flags != 0 || it->reserved != 0)
            REFUSE(walk, EDGE_ERR_INVALID, "flags", "must be zero in this version");
        if (it->route_count == 0)
            REFUSE(walk, EDGE_ERR_INVALID, "route_count", "a host without a route");
        TRY(check_list(walk, it->first_route, it->route_count, EDGE_SECTION_ROUTE, &routes,
                       "first_route"));
        for (uint32_t k = it->first_route + 1; k < it->first_route + it->route_count; k++) {
            walk->section = EDGE_SECTION_ROUTE;
            walk->index = k;
            if (!in_order(&image->routes[k - 1], &image->routes[k]))
                REFUSE(walk, EDGE_ERR_INVALID, "precedence", "routes are out of order");
        }
    }
    return check_used_up(walk, EDGE_SECTION_ROUTE, routes);
}

static int check_route(struct walk *walk, const struct edge_image_route *it)
{
    TRY(check_text(walk, it->path, "path", LIMIT_PATH_BYTES));
    if (it->path.length == 0 || walk->image.text[it->path.offset] != '/')
        REFUSE(walk, EDGE_ERR_INVALID, "path", "does not begin with a slash");
    if (it->path_type != EDGE_PATH_EXACT && it->path_type != EDGE_PATH_PREFIX)
        REFUSE(walk, EDGE_ERR_INVALID, "path_type", "not in this version");
    if ((it->flags & ~(uint32_t)EDGE_ROUTE_REDIRECT_HTTPS) != 0)
        REFUSE(walk, EDGE_ERR_INVALID, "flags", "unknown");
    if (it->first_field_match != 0 || it->field_match_count != 0)
        REFUSE(walk, EDGE_ERR_INVALID, "field_match_count", "not in this version");
    if (it->not_before_s != 0 || it->not_after_s != 0)
        REFUSE(walk, EDGE_ERR_INVALID, "not_before_s", "not in this version");
    if (it->body_bytes_max > INT64_MAX)
        REFUSE(walk, EDGE_ERR_LIMIT, "body_bytes_max", "too large");
    if (it->filter_count > LIMIT_FILTERS)
        REFUSE(walk, EDGE_ERR_LIMIT, "filter_count", "%" PRIu32, it->filter_count);
    if (it->reference_count > LIMIT_REFERENCES)
        REFUSE(walk, EDGE_ERR_LIMIT, "reference_count", "%" PRIu32, it->reference_count);
    TRY(check_text(walk, it->kind, "kind", LIMIT_NAME_BYTES));
    TRY(check_text(walk, it->object_namespace, "object_namespace", LIMIT_NAME_BYTES));
    TRY(check_text(walk, it->object_name, "object_name", LIMIT_NAME_BYTES));
    TRY(check_text(walk, it->path_written, "path_written", LIMIT_PATH_BYTES));
    return check_text(walk, it->service, "service", LIMIT_LABEL_BYTES);
}

static int check_routes(struct walk *walk, const uint64_t *upstream_slots)
{
    const struct image *image = &walk->image;
    uint64_t seen[EDGE_ROUTE_SLOTS / 64] = {0};
    uint32_t filters = 0, references = 0;

    for (uint32_t i = 0; i < image->count[EDGE_SECTION_ROUTE]; i++) {
        const struct edge_image_route *it = &image->routes[i];
        walk->section = EDGE_SECTION_ROUTE;
        walk->index = i;
        TRY(mark_slot(walk, seen, it->slot, EDGE_ROUTE_SLOTS));
        TRY(check_route(walk, it));
        TRY(check_list(walk, it->first_filter, it->filter_count, EDGE_SECTION_FILTER, &filters,
                       "first_filter"));
        TRY(check_list(walk, it->first_reference, it->reference_count, EDGE_SECTION_REFERENCE,
                       &references, "first_reference"));
    }
    TRY(check_used_up(walk, EDGE_SECTION_FILTER, filters));
    TRY(check_used_up(walk, EDGE_SECTION_REFERENCE, references));
    walk->section = EDGE_SECTION_FILTER;
    for (uint32_t i = 0; i < filters; i++) {
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
    for (uint32_t i = 0; i < references; i++) {
        uint32_t slot = image->references[i].upstream_slot;
        walk->index = i;
        if (slot >= EDGE_UPSTREAM_SLOTS || !(upstream_slots[slot / 64] >> (slot % 64) & 1))
            REFUSE(walk, EDGE_ERR_REFERENCE, "upstream_slot", "%" PRIu32 " is not there", slot);
        if (image->references[i].weight > LIMIT_WEIGHT)
            REFUSE(walk, EDGE_ERR_LIMIT, "weight", "%" PRIu32, image->references[i].weight);
    }
    return EDGE_OK;
}

static bool milliseconds(uint32_t value)
{
    return value > 0 && value <= LIMIT_MILLISECONDS;
}

static int check_upstreams(struct walk *walk, uint64_t *seen)
{
    const struct image *image = &walk->image;
    uint32_t endpoints = 0;

    for (uint32_t i = 0; i < image->count[EDGE_SECTION_UPSTREAM]; i++) {
        const struct edge_image_upstream *it = &image->upstreams[i];
        walk->section = EDGE_SECTION_UPSTREAM;
        walk->index = i;
        TRY(mark_slot(walk, seen, it->slot, EDGE_UPSTREAM_SLOTS));
        if (it->protocol != EDGE_PROTOCOL_HTTP1)
            REFUSE(walk, EDGE_ERR_INVALID, "protocol", "unknown");
        if (it->balance != EDGE_BALANCE_ROUND_ROBIN)
            REFUSE(walk, EDGE_ERR_INVALID, "balance", "unknown");
        if (!milliseconds(it->connect_ms) || !milliseconds(it->read_ms) ||
            !milliseconds(it->send_ms) || !milliseconds(it->idle_ms))
            REFUSE(walk, EDGE_ERR_LIMIT, "connect_ms", "a time of zero or over a day");
        TRY(check_text(walk, it->name, "name", LIMIT_LABEL_BYTES));
        TRY(check_list(walk, it->first_endpoint, it->endpoint_count, EDGE_SECTION_ENDPOINT,
                       &endpoints, "first_endpoint"));
    }
    TRY(check_used_up(walk, EDGE_SECTION_ENDPOINT, endpoints));
    for (uint32_t i = 0; i < endpoints; i++) {
        const struct edge_image_endpoint *it = &image->endpoints[i];
        walk->index = i;
        if (!address_given(it->address) || it->port == 0)
            REFUSE(walk, EDGE_ERR_INVALID, "address", "no address or no port");
        if (it->state != EDGE_ENDPOINT_READY && it->state != EDGE_ENDPOINT_DRAINING)
            REFUSE(walk, EDGE_ERR_INVALID, "state", "unknown");
        if (it->reserved != 0)
            REFUSE(walk, EDGE_ERR_INVALID, "reserved", "must be zero");
        TRY(check_text(walk, it->zone, "zone", LIMIT_LABEL_BYTES));
    }
    return EDGE_OK;
}

int edge_image_check(const uint8_t *bytes, size_t size, struct edge_error *err)
{
    uint64_t upstream_slots[EDGE_UPSTREAM_SLOTS / 64] = {0};
    struct walk walk = {.err = err};

    TRY(check_header(bytes, size, err));
    TRY(check_sections(bytes, err));
    image_open(&walk.image, bytes);
    TRY(check_all_text(&walk));
    TRY(check_upstreams(&walk, upstream_slots));
    TRY(check_server_names(&walk));
    TRY(check_hosts(&walk));
    TRY(check_routes(&walk, upstream_slots));
    TRY(check_listeners(&walk));
    if (err != NULL)
        *err = (struct edge_error){0};
    return EDGE_OK;
}
