/* The one validator of images. Total: after EDGE_OK nothing in the image needs a check.
 *
 * Called by edge_image_check's users: the controller after a build, the data plane before it makes
 * a view, `edge explain`, the fuzzer. Reads only inside [bytes, bytes + size), never writes.
 *
 * Strict on purpose: sections and every list inside them lie without gaps or overlaps, in order,
 * so "first_x" fields have one right value each; what this version does not use must be zero. */
#include "snapshot/check.h"

bool check_zero(const void *bytes, size_t length)
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
    if (header->total_bytes != size || size % 64 != 0)
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
    uint64_t expected = (sizeof(*header) + 63) & ~UINT64_C(63);

    if (expected > header->total_bytes)
        return error_at(err, EDGE_ERR_TRUNCATED, 0, 0, "total_bytes", "no room for sections");
    if (!check_zero(bytes + sizeof(*header), expected - sizeof(*header)))
        return error_at(err, EDGE_ERR_INVALID, 0, 0, "padding", "must be zero");
    if (!check_zero(&header->section[0], sizeof(header->section[0])))
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
        expected = (end + 63) & ~UINT64_C(63);
        if (expected > header->total_bytes)
            return error_at(err, EDGE_ERR_TRUNCATED, i, 0, "count", "the section does not fit");
        if (!check_zero(bytes + end, expected - end))
            return error_at(err, EDGE_ERR_INVALID, i, 0, "padding", "must be zero");
    }
    if (expected != header->total_bytes)
        return error_at(err, EDGE_ERR_SECTION, EDGE_SECTION_TEXT, 0, "count", "bytes left over");
    return EDGE_OK;
}

int check_text(struct walk *walk, struct edge_text text, const char *field, uint32_t max)
{
    const uint32_t total = walk->image.count[EDGE_SECTION_TEXT];

    if (text.offset > total || text.length > total - text.offset)
        REFUSE(walk, EDGE_ERR_REFERENCE, field, "the text lies outside the text section");
    if (text.length > max)
        REFUSE(walk, EDGE_ERR_LIMIT, field, "a text of %" PRIu32 " bytes", text.length);
    return EDGE_OK;
}

int check_list(struct walk *walk, uint32_t first, uint32_t count, uint32_t section,
               uint32_t *cursor, const char *field)
{
    if (first != *cursor)
        REFUSE(walk, EDGE_ERR_REFERENCE, field, "is %" PRIu32 ", not %" PRIu32, first, *cursor);
    if (count > walk->image.count[section] - *cursor)
        REFUSE(walk, EDGE_ERR_REFERENCE, field, "%" PRIu32 " entries do not fit", count);
    *cursor += count;
    return EDGE_OK;
}

int check_shared(struct walk *walk, uint32_t index, uint32_t section, uint32_t *seen,
                 const char *field)
{
    if (index >= walk->image.count[section])
        REFUSE(walk, EDGE_ERR_REFERENCE, field, "%" PRIu32 " is not there", index);
    if (index > *seen)
        REFUSE(walk, EDGE_ERR_REFERENCE, field, "is %" PRIu32 " before %" PRIu32, index, *seen);
    *seen += index == *seen;
    return EDGE_OK;
}

int check_used_up(struct walk *walk, uint32_t section, uint32_t cursor)
{
    walk->section = section;
    walk->index = cursor;
    if (cursor != walk->image.count[section])
        REFUSE(walk, EDGE_ERR_REFERENCE, "", "belongs to nothing");
    return EDGE_OK;
}

int check_slot(struct walk *walk, uint64_t *seen, uint32_t slot, uint32_t slots)
{
    if (slot >= slots)
        REFUSE(walk, EDGE_ERR_LIMIT, "slot", "%" PRIu32 " is over the limit", slot);
    if (seen[slot / 64] >> (slot % 64) & 1)
        REFUSE(walk, EDGE_ERR_INVALID, "slot", "%" PRIu32 " is used twice", slot);
    seen[slot / 64] |= UINT64_C(1) << (slot % 64);
    return EDGE_OK;
}

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

    return !check_zero(address, 16) && memcmp(address, mapped_any, 16) != 0;
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
        TRY(check_slot(walk, seen, it->slot, EDGE_LISTENER_SLOTS));
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
        if (!check_zero(it->reserved, sizeof(it->reserved)))
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
        TRY(check_slot(walk, seen, it->slot, EDGE_UPSTREAM_SLOTS));
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
    TRY(check_routes(&walk, upstream_slots));
    TRY(check_hosts(&walk));
    TRY(check_listeners(&walk));
    if (err != NULL)
        *err = (struct edge_error){0};
    return EDGE_OK;
}
