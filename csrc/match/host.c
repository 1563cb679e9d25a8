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

typedef uint8_t bytes16 __attribute__((vector_size(16)));

/* Of each byte of a that is in [from, to] all bits, else none. */
#define WITHIN(a, from, to) ((bytes16)((a) - (uint8_t)(from) <= (uint8_t)((to) - (from))))

/* Sixteen bytes of a name at once, to lower case. `usual` keeps its bits where they are all
 * letters, digits, '-', '.'. */
static inline bytes16 lower(bytes16 bytes, bytes16 *usual)
{
    bytes |= WITHIN(bytes, 'A', 'Z') & 0x20;
    *usual &= WITHIN(bytes, 'a', 'z') | WITHIN(bytes, '0', '9') | WITHIN(bytes, '-', '.');
    return bytes;
}

/* The usual case, without a look at each byte: no port, no last dot, nothing odd. */
static bool usual(struct slice written, struct host_name *out)
{
    const size_t part = written.length % 8, whole = written.length - part;
    uint64_t state = HASH_ODD_B ^ written.length, words[2];
    bytes16 bytes, good = (bytes16){0} == 0;
    size_t at;

    if (written.length < 8 || written.length > HOST_NAME_BYTES_MAX ||
        written.at[written.length - 1] == '.')
        return false;
    for (at = 0; at + 16 <= written.length; at += 16) {
        memcpy(&bytes, written.at + at, 16);
        bytes = lower(bytes, &good);
        memcpy(out->text + at, &bytes, 16);
        memcpy(words, &bytes, 16);
        state = hash_pair(state, words[0], words[1]);
    }
    out->tail = 0;
    if (at < written.length) { /* the last word of its own, if there is one, and the last bytes */
        words[0] = hash_load(written.at + (at < whole ? at : written.length - 8));
        words[1] = hash_load(written.at + written.length - 8);
        memcpy(&bytes, words, 16);
        bytes = lower(bytes, &good);
        memcpy(words, &bytes, 16);
        if (part > 0)
            out->tail = words[1] >> (64 - 8 * part);
        memcpy(out->text + whole, &out->tail, 8);
        if (at < whole) {
            memcpy(out->text + at, &words[0], 8);
            state = hash_pair(state, words[0], out->tail);
        } else {
            state = hash_pair(state, out->tail, 0);
        }
    }
    memcpy(words, &good, 16);
    out->length = (uint32_t)written.length;
    out->hash = hash_end(state);
    return (words[0] & words[1]) == UINT64_MAX;
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
    const uint32_t length = name->length, whole = length & ~7u;
    uint64_t tail = 0;
    uint32_t i = 0;

    for (; i + 16 <= length; i += 16)
        if (((hash_load(text + i) ^ hash_load(name->text + i)) |
             (hash_load(text + i + 8) ^ hash_load(name->text + i + 8))) != 0)
            return false;
    if (i < whole && hash_load(text + i) != hash_load(name->text + i))
        return false;
    if (length <= 8)
        tail = hash_load_part(text + whole, length - whole);
    else if (length != whole)
        tail = hash_load(text + length - 8) >> (64 - 8 * (length - whole));
    return tail == name->tail;
}

/* Tag, name_length and wildcard (none) of an entry at once. */
static uint32_t whole_word(const struct host_name *name)
{
    return name->hash >> 16 | name->length << 16;
}

static uint32_t entry_word(const struct edge_image_host_entry *entry)
{
    uint32_t word;
    memcpy(&word, entry, sizeof(word));
    return word;
}

struct host_hint host_expect(const struct image *image, const struct edge_image_table *table,
                             const struct host_name *name)
{
    const struct edge_image_host_entry *entry =
        &image->host_entries[table->first_entry + (name->hash & table->mask)];

    __builtin_prefetch(entry);
    return (struct host_hint){entry, whole_word(name)};
}

void host_expect_more(const struct image *image, struct host_hint hint)
{
    if (hint.entry == NULL || entry_word(hint.entry) != hint.word)
        return;
    __builtin_prefetch(image->text + hint.entry->name_offset);
    __builtin_prefetch(image->text + hint.entry->name_offset + hint.entry->name_length);
    __builtin_prefetch(&image->path_indexes[hint.entry->path_index]);
    __builtin_prefetch(&image->routes[hint.entry->first_route]);
}

/* All tables: the check made sure that there is an empty bucket to stop at. */
static int32_t find_whole(const struct image *image, const struct edge_image_table *table,
                          const struct host_name *name)
{
    const struct edge_image_host_entry *entries = image->host_entries + table->first_entry;
    const uint32_t mask = table->mask, wanted = whole_word(name);

    for (uint32_t i = name->hash;; i++) {
        const struct edge_image_host_entry *entry = &entries[i & mask];
        if (entry_word(entry) == wanted) {
            /* All are looked at next (of few paths mostly the first route), and none waits for
             * another. */
            __builtin_prefetch(&image->path_indexes[entry->path_index]);
            __builtin_prefetch(&image->routes[entry->first_route]);
            if (is_name(name, image->text + entry->name_offset))
                return (int32_t)(entry - image->host_entries);
        }
        if (entry->name_length == 0)
            return -1;
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
