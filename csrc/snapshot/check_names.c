/* The validator's part for tables of names: every name is found where a lookup looks first, and
 * every lookup ends.
 *
 * Called by check.c and check_paths.c. */
#include "snapshot/check.h"

/* A bucket of either kind of table. */
struct bucket {
    struct edge_text name;
    uint32_t hash; /* of a host: only its upper half, in the upper half */
    uint8_t wildcard;
};

static struct bucket bucket_at(const struct image *image, bool server_names, uint32_t index)
{
    if (server_names) {
        const struct edge_image_sni_entry *entry = &image->sni_entries[index];
        return (struct bucket){entry->name, entry->hash, entry->wildcard != 0};
    }
    const struct edge_image_host_entry *entry = &image->host_entries[index];
    return (struct bucket){
        {entry->name_offset, entry->name_length}, (uint32_t)entry->tag << 16, entry->wildcard};
}

/* Lower case, and for a wildcard ".suffix" with something behind the dot. */
static int check_name(struct walk *walk, const struct bucket *it, bool server_names, uint32_t *hash)
{
    const char *text;

    TRY(check_text(walk, it->name, "name", LIMIT_NAME_BYTES));
    text = walk->image.text + it->name.offset;
    if (it->wildcard > EDGE_WILDCARD_SUFFIX)
        REFUSE(walk, EDGE_ERR_INVALID, "wildcard", "unknown");
    if (it->wildcard ? it->name.length < 2 || text[0] != '.' : text[0] == '.')
        REFUSE(walk, EDGE_ERR_INVALID, "name", "does not fit the wildcard mark");
    for (uint32_t i = 0; i < it->name.length; i++)
        if ((text[i] >= 'A' && text[i] <= 'Z') || text[i] == ' ' || text[i] == '/')
            REFUSE(walk, EDGE_ERR_INVALID, "name", "a character that no lower-case name has");
    *hash = edge_text_hash(text, it->name.length);
    if (server_names ? *hash != it->hash : (*hash & 0xffff0000) != it->hash)
        REFUSE(walk, EDGE_ERR_INVALID, "hash", "is not that of the name");
    return EDGE_OK;
}

static bool same(const struct image *image, const struct bucket *a, const struct bucket *b)
{
    return a->hash == b->hash && a->wildcard == b->wildcard && a->name.length == b->name.length &&
           a->name.offset <= image->count[EDGE_SECTION_TEXT] &&
           a->name.length <= image->count[EDGE_SECTION_TEXT] - a->name.offset &&
           slice_equal(image_text(image, a->name), image_text(image, b->name));
}

static int check_buckets(struct walk *walk, const struct edge_image_table *table, bool server_names)
{
    const struct image *image = &walk->image;
    uint32_t empty = 0, wildcards = 0;

    walk->section = server_names ? EDGE_SECTION_SNI_ENTRY : EDGE_SECTION_HOST_ENTRY;
    for (uint32_t i = 0; i <= table->mask; i++)
        empty += bucket_at(image, server_names, table->first_entry + i).name.length == 0;
    if (empty == 0)
        REFUSE(walk, EDGE_ERR_INVALID, "name", "a table without an empty bucket");
    for (uint32_t i = 0; i <= table->mask; i++) {
        struct bucket it = bucket_at(image, server_names, table->first_entry + i);
        uint32_t hash = 0;
        walk->index = table->first_entry + i;
        if (it.name.length == 0)
            continue;
        if (server_names && image->sni_entries[table->first_entry + i].wildcard > 1)
            REFUSE(walk, EDGE_ERR_INVALID, "wildcard", "is neither 0 nor 1");
        TRY(check_name(walk, &it, server_names, &hash));
        wildcards |= image_wildcard_bit(image_text(image, it.name), it.wildcard);
        for (uint32_t at = hash & table->mask; at != i; at = (at + 1) & table->mask) {
            struct bucket other = bucket_at(image, server_names, table->first_entry + at);
            if (other.name.length == 0)
                REFUSE(walk, EDGE_ERR_INVALID, "hash", "no lookup comes to this bucket");
            if (same(image, &other, &it))
                REFUSE(walk, EDGE_ERR_INVALID, "name", "stands twice in its table");
        }
    }
    if (table->wildcards != (server_names ? 0 : wildcards))
        REFUSE(walk, EDGE_ERR_INVALID, "wildcards", "are not those of the table");
    return EDGE_OK;
}

int check_tables(struct walk *walk, bool server_names, uint32_t *used)
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
        TRY(check_list(walk, tables[i].first_entry, tables[i].mask + 1, section + 1, used,
                       "first_entry"));
        TRY(check_buckets(walk, &tables[i], server_names));
    }
    return EDGE_OK;
}

int check_server_names(struct walk *walk)
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
            if (!check_zero(it, sizeof(*it)))
                REFUSE(walk, EDGE_ERR_INVALID, "", "an empty bucket must be zero");
            continue;
        }
        if (it->action != EDGE_SNI_TERMINATE && it->action != EDGE_SNI_REJECT)
            REFUSE(walk, EDGE_ERR_INVALID, "action", "not in this version");
        if (it->action == EDGE_SNI_REJECT ? it->certificate != 0 : it->certificate >= certificates)
            REFUSE(walk, EDGE_ERR_REFERENCE, "certificate", "not there");
    }
    return EDGE_OK;
}
