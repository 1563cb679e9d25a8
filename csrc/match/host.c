/* Normalising host names and looking them up: see host.h.
 *
 * Called by matcher.c and edge_image_explain. A lookup hashes the name once, and its suffix once
 * more when there is no exact entry. */
#include "match/host.h"

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

enum host_result host_normalise(struct slice written, struct host_name *out)
{
    size_t length = 0;

    out->length = 0;
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
    out->length = (uint32_t)length;
    return HOST_OK;
}

/* Both kinds of table: the check made sure that there is an empty bucket to stop at. */
static int32_t find_host(const struct image *image, const struct edge_image_table *table,
                         struct slice name, uint32_t wildcard)
{
    uint32_t hash = edge_text_hash(name.at, name.length);

    for (uint32_t i = hash;; i++) {
        uint32_t index = table->first_entry + (i & table->mask);
        const struct edge_image_host_entry *entry = &image->host_entries[index];
        if (entry->name.length == 0)
            return -1;
        if (entry->hash == hash && entry->wildcard == wildcard &&
            slice_equal(image_text(image, entry->name), name))
            return (int32_t)index;
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

typedef int32_t find_function(const struct image *, const struct edge_image_table *, struct slice,
                              uint32_t);

/* Exact, then the wildcard of exactly one label: "a.b.c" may be "*.b.c", never "*.c". */
static int32_t find_best(find_function *find, const struct image *image,
                         const struct edge_image_table *table, const struct host_name *name)
{
    struct slice whole = {name->text, name->length};
    const char *dot;
    int32_t index;

    if (whole.length == 0)
        return -1;
    index = find(image, table, whole, 0);
    if (index >= 0)
        return index;
    dot = memchr(whole.at, '.', whole.length);
    if (dot == NULL || dot == whole.at)
        return -1;
    return find(image, table, (struct slice){dot, (size_t)(whole.at + whole.length - dot)}, 1);
}

int32_t host_lookup(const struct image *image, const struct edge_image_table *table,
                    const struct host_name *name)
{
    int32_t index = find_best(find_host, image, table, name);

    return index >= 0 ? index : (int32_t)table->fallback - 1;
}

int32_t host_lookup_server_name(const struct image *image, const struct edge_image_table *table,
                                const struct host_name *name)
{
    return find_best(find_server_name, image, table, name);
}
