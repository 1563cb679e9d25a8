/* The part of the image builder that lays out certificates and the tables of server names.
 *
 * Called by build.c. Deterministic given the order of certificates, which is the caller's. */
#include <string.h>

#include "snapshot/builder.h"

static struct slice server_name(const struct item *item, const struct edge_text *name)
{
    return (struct slice){(const char *)item->head + name->offset, name->length};
}

/* The first certificate that has a name gets it: the caller ordered them. */
static int put_server_name(struct builder *builder, const struct edge_image_table *table,
                           struct item item, uint32_t certificate, struct slice name)
{
    const struct edge_fragment_certificate *fragment = (const void *)item.head;
    bool reject = fragment->role == EDGE_CERTIFICATE_REJECT;
    struct edge_image_sni_entry *entries =
        (struct edge_image_sni_entry *)(void *)builder->section[EDGE_SECTION_SNI_ENTRY].bytes +
        table->first_entry;
    uint32_t hash = edge_text_hash(name.at, name.length), at;
    struct edge_text text;

    BUILDER_TRY(builder_intern(builder, name, &text));
    for (at = hash & table->mask; entries[at].name.length != 0; at = (at + 1) & table->mask)
        if (entries[at].name.offset == text.offset && entries[at].name.length == text.length)
            return EDGE_OK;
    entries[at] = (struct edge_image_sni_entry){
        .name = text,
        .hash = hash,
        .wildcard = name.at[0] == '.',
        .action = reject ? EDGE_SNI_REJECT : EDGE_SNI_TERMINATE,
        .certificate = reject ? 0 : certificate,
    };
    builder->section[EDGE_SECTION_SNI_ENTRY].origin[table->first_entry + at] = item.number;
    return EDGE_OK;
}

static int put_server_table(struct builder *builder, const struct domain *domain)
{
    const struct items *given = &builder->items[EDGE_FRAGMENT_CERTIFICATE];
    struct edge_image_table *table = builder_append(builder, EDGE_SECTION_SNI_TABLE, 1, UINT32_MAX);
    const uint32_t buckets = builder_buckets(domain->server_names);

    if (table == NULL)
        return builder_no_memory(builder);
    table->first_entry = builder->section[EDGE_SECTION_SNI_ENTRY].count;
    table->mask = buckets - 1;
    if (builder_append(builder, EDGE_SECTION_SNI_ENTRY, buckets, UINT32_MAX) == NULL)
        return builder_no_memory(builder);
    for (uint32_t i = 0; i < given->count; i++) {
        const struct edge_fragment_certificate *fragment = (const void *)given->at[i].head;
        const struct edge_text *names;
        const void *array;
        if (fragment->domain != domain->number)
            continue;
        if (fragment->role == EDGE_CERTIFICATE_DEFAULT && table->fallback == 0)
            table->fallback = i + 1;
        BUILDER_TRY(builder_array(builder, given->at[i], fragment->names_offset,
                                  fragment->names_count, sizeof(*names), "names_offset", &array));
        names = array;
        for (uint32_t k = 0; k < fragment->names_count; k++)
            BUILDER_TRY(put_server_name(builder, table, given->at[i], i,
                                        server_name(&given->at[i], &names[k])));
    }
    return EDGE_OK;
}

int builder_put_server_names(struct builder *builder)
{
    const struct items *given = &builder->items[EDGE_FRAGMENT_CERTIFICATE];
    bool rejecting = false;

    for (uint32_t i = 0; i < given->count; i++) {
        const struct edge_fragment_certificate *fragment = (const void *)given->at[i].head;
        struct edge_image_certificate *entry;
        struct domain *domain;
        const struct edge_text *names;
        const void *array;
        BUILDER_TRY(builder_domain(builder, given->at[i], fragment->domain, &domain));
        BUILDER_TRY(builder_array(builder, given->at[i], fragment->names_offset,
                                  fragment->names_count, sizeof(*names), "names_offset", &array));
        names = array;
        for (uint32_t k = 0; k < fragment->names_count; k++) {
            struct slice name;
            BUILDER_TRY(builder_text(builder, given->at[i], names[k], "names", &name));
            if (name.length == 0)
                return builder_refuse(builder, given->at[i], EDGE_ERR_INVALID, "names",
                                      "an empty name");
        }
        domain->server_names += fragment->names_count;
        if (fragment->role > EDGE_CERTIFICATE_REJECT)
            return builder_refuse(builder, given->at[i], EDGE_ERR_INVALID, "role", "not known");
        rejecting = rejecting || fragment->role == EDGE_CERTIFICATE_REJECT;
        if (rejecting && fragment->role != EDGE_CERTIFICATE_REJECT)
            return builder_refuse(builder, given->at[i], EDGE_ERR_INVALID, "role",
                                  "a certificate after names that are rejected");
        if (rejecting)
            continue;
        entry = builder_append(builder, EDGE_SECTION_CERTIFICATE, 1, given->at[i].number);
        if (entry == NULL)
            return builder_no_memory(builder);
        *entry = fragment->certificate;
    }
    for (uint32_t d = 0; d < builder->domain_count; d++)
        BUILDER_TRY(put_server_table(builder, &builder->domain[d]));
    return EDGE_OK;
}
