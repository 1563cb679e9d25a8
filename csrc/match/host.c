/* Normalising host names and looking them up: see host.h.
 *
 * Called by matcher.c and edge_image_explain. A lookup hashes the name once, and its suffix once
 * more when there is no exact entry. */
#include "match/host.h"

#include "base/hash.h"

/* What a host may consist of (RFC 3986 §3.2.2: unreserved, sub-delims, "%"), by lower case. */
static bool host_character(char c)
{
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'))
        return true;
    return c != '\0' && strchr("-._~!$&'()*+,;=%", c) != NULL;
}

static bool port(struct slice text)
{
    for (size_t i = 0; i < text.length; i++)
        if (text.at[i] < '0' || text.at[i] > '9')
            return false;
    return true;
}

static bool literal_character(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || c == ':' || c == '.';
}

/* Bytes of an IPv6 literal with its brackets, 0: none. */
static size_t literal(struct slice written)
{
    for (size_t i = 1; i < written.length; i++) {
        if (written.at[i] == ']')
            return i > 1 ? i + 1 : 0;
        if (!literal_character(ascii_lower(written.at[i])))
            return 0;
    }
    return 0;
}

static void finish(struct host_name *out, uint32_t length)
{
    out->length = length;
    out->hash = edge_text_hash(out->text, length);
    out->tail = 0;
    memcpy(&out->tail, out->text + length - length % 8, length % 8);
}

#define ONES UINT64_C(0x0101010101010101)
#define HIGH (ONES * 0x80)

/* Of eight bytes below 0x80: the high bit of each that is at least c; its other bits say nothing.
 */
static inline uint64_t at_least(uint64_t word, char c)
{
    return word + ONES * (0x80 - (unsigned char)c);
}

/* Eight bytes of a name at once, to lower case; false unless all are letters, digits, '-', '.'. */
static inline bool lower(uint64_t *word)
{
    uint64_t w = *word, allowed;

    w |= (at_least(w, 'A') & ~at_least(w, 'Z' + 1) & HIGH) >> 2;
    allowed = at_least(w, 'a') & ~at_least(w, 'z' + 1);
    allowed |= at_least(w, '-') & ~at_least(w, '.' + 1);
    allowed |= at_least(w, '0') & ~at_least(w, '9' + 1);
    allowed &= ~*word; /* below 0x80, or a sum of the above ran over */
    *word = w;
    return (allowed & HIGH) == HIGH;
}

/* The usual case, without a look at each byte: no port, no last dot, nothing odd. */
static bool usual(struct slice written, struct host_name *out)
{
    const size_t part = written.length % 8, whole = written.length - part;
    uint64_t state = HASH_ODD_B ^ written.length, word;

    if (written.length < 8 || written.length > HOST_NAME_BYTES_MAX ||
        written.at[written.length - 1] == '.')
        return false;
    for (size_t i = 0; i < whole; i += 8) {
        word = hash_load(written.at + i);
        if (!lower(&word))
            return false;
        memcpy(out->text + i, &word, 8);
        state = hash_word(state, word);
    }
    out->tail = 0;
    if (part > 0) {
        word = hash_load(written.at + written.length - 8);
        if (!lower(&word))
            return false;
        out->tail = word >> (64 - 8 * part);
        memcpy(out->text + whole, &out->tail, 8);
        state = hash_word(state, out->tail);
    }
    out->length = (uint32_t)written.length;
    out->hash = (uint32_t)(hash_mix(state) >> 32);
    return true;
}

enum host_result host_normalise(struct slice written, struct host_name *out)
{
    size_t length = 0;

    if (usual(written, out))
        return HOST_OK;
    finish(out, 0);
    if (written.length == 0)
        return HOST_OK;
    if (written.at[0] == '[') {
        length = literal(written);
        if (length == 0)
            return HOST_INVALID;
    } else {
        while (length < written.length && host_character(ascii_lower(written.at[length])))
            length++;
    }
    if (length < written.length &&
        (length == 0 || written.at[length] != ':' ||
         !port((struct slice){written.at + length + 1, written.length - length - 1})))
        return HOST_INVALID;
    if (length > 0 && written.at[length - 1] == '.')
        length--;
    if (length > HOST_NAME_BYTES_MAX)
        return HOST_OK;
    for (size_t i = 0; i < length; i++)
        out->text[i] = ascii_lower(written.at[i]);
    finish(out, (uint32_t)length);
    return HOST_OK;
}

/* Does the name stand there in the image? Its length was compared. */
static bool is_name(const struct host_name *name, const char *text)
{
    uint32_t whole = name->length & ~7u;
    uint64_t tail = 0;

    for (uint32_t i = 0; i < whole; i += 8)
        if (hash_load(text + i) != hash_load(name->text + i))
            return false;
    if (name->length > 8 && name->length != whole)
        tail = hash_load(text + name->length - 8) >> (64 - 8 * (name->length - whole));
    else
        memcpy(&tail, text + whole, name->length - whole);
    return tail == name->tail;
}

/* All tables: the check made sure that there is an empty bucket to stop at. */
static int32_t find_whole(const struct image *image, const struct edge_image_table *table,
                          const struct host_name *name)
{
    const struct edge_image_host_entry *entries = image->host_entries + table->first_entry;

    for (uint32_t i = name->hash;; i++) {
        const struct edge_image_host_entry *entry = &entries[i & table->mask];
        if (entry->name_length == 0)
            return -1;
        if (entry->tag == name->hash >> 16 && entry->name_length == name->length &&
            entry->wildcard == EDGE_WILDCARD_NONE) {
            /* Both are looked at next, and neither waits for the other. */
            __builtin_prefetch(&image->path_indexes[entry->path_index]);
            if (is_name(name, image->text + entry->name_offset))
                return (int32_t)(table->first_entry + (i & table->mask));
        }
    }
}

static int32_t find_suffix(const struct image *image, const struct edge_image_table *table,
                           struct slice suffix, uint8_t wildcard)
{
    uint32_t hash = edge_text_hash(suffix.at, suffix.length);

    for (uint32_t i = hash;; i++) {
        uint32_t index = table->first_entry + (i & table->mask);
        const struct edge_image_host_entry *entry = &image->host_entries[index];
        if (entry->name_length == 0)
            return -1;
        if (entry->tag == hash >> 16 && entry->wildcard == wildcard &&
            slice_equal(image_host_name(image, entry), suffix))
            return (int32_t)index;
    }
}

enum { SEARCH_WHOLE, SEARCH_LABEL, SEARCH_SUFFIX, SEARCH_ANY, SEARCH_END };

void host_search_init(struct host_search *search, const struct image *image,
                      const struct edge_image_table *table, const struct host_name *name)
{
    *search = (struct host_search){image, table, name, SEARCH_WHOLE, 0};
}

/* From the byte `from` of the name, the next dot that is not its first byte; 0: none. */
static uint32_t next_dot(const struct host_name *name, uint32_t from)
{
    const char *dot;

    if (from >= name->length)
        return 0;
    dot = memchr(name->text + from, '.', name->length - from);
    return dot == NULL ? 0 : (uint32_t)(dot - name->text);
}

static int32_t next_suffix(struct host_search *search)
{
    const struct host_name *name = search->name;

    for (uint32_t dot = search->suffix; dot != 0; dot = search->suffix) {
        struct slice suffix = {name->text + dot, name->length - dot};
        search->suffix = next_dot(name, dot + 1);
        if (search->table->wildcards & image_wildcard_bit(suffix, EDGE_WILDCARD_SUFFIX)) {
            int32_t found = find_suffix(search->image, search->table, suffix, EDGE_WILDCARD_SUFFIX);
            if (found >= 0)
                return found;
        }
    }
    return -1;
}

int32_t host_search_next(struct host_search *search)
{
    const struct host_name *name = search->name;
    int32_t found;

    switch (search->next) {
    case SEARCH_WHOLE:
        search->next = search->table->wildcards != 0 ? SEARCH_LABEL : SEARCH_ANY;
        found = name->length > 0 ? find_whole(search->image, search->table, name) : -1;
        return found >= 0 ? found : host_search_next(search);
    case SEARCH_LABEL:
        search->next = SEARCH_SUFFIX;
        search->suffix = next_dot(name, 0);
        found = -1;
        if (search->suffix != 0 && (search->table->wildcards & 1))
            found = find_suffix(
                search->image, search->table,
                (struct slice){name->text + search->suffix, name->length - search->suffix},
                EDGE_WILDCARD_LABEL);
        return found >= 0 ? found : host_search_next(search);
    case SEARCH_SUFFIX:
        found = next_suffix(search);
        if (found >= 0)
            return found;
        /* fallthrough */
    case SEARCH_ANY:
        search->next = SEARCH_END;
        return (int32_t)search->table->fallback - 1;
    default:
        return -1;
    }
}

static int32_t find_server_name(const struct image *image, const struct edge_image_table *table,
                                struct slice name, uint32_t wildcard)
{
    uint32_t hash = edge_text_hash(name.at, name.length);

    for (uint32_t i = hash;; i++) {
        uint32_t index = table->first_entry + (i & table->mask);
        const struct edge_image_sni_entry *entry = &image->sni_entries[index];
        if (entry->name.length == 0)
            return -1;
        if (entry->hash == hash && entry->wildcard == wildcard &&
            slice_equal(image_text(image, entry->name), name))
            return (int32_t)index;
    }
}

int32_t host_lookup_server_name(const struct image *image, const struct edge_image_table *table,
                                const struct host_name *name)
{
    uint32_t dot = next_dot(name, 0);
    int32_t index;

    if (name->length == 0)
        return -1;
    index = find_server_name(image, table, (struct slice){name->text, name->length}, 0);
    if (index >= 0 || dot == 0)
        return index;
    return find_server_name(image, table, (struct slice){name->text + dot, name->length - dot}, 1);
}
