/* The part of the image builder that lays out certificates and the tables of server names.
 *
 * Called by build.c. Deterministic given the order of certificates, which is the caller's. */
#include <stdlib.h>
#include <string.h>

#include "snapshot/builder.h"

/* Of a fragment that was kept: its offsets are atoms. */
static struct edge_text *names_of(const struct item *item)
{
    const struct edge_fragment_certificate *fragment = (const void *)item->head;

    return (struct edge_text *)((uintptr_t)item->head + fragment->names_offset);
}

int builder_keep_names(struct edge_builder *builder, struct item item)
{
    const struct edge_fragment_certificate *fragment = (const void *)item.head;
    struct edge_text *names = names_of(&item);
    const void *array;

    BUILDER_TRY(builder_array(builder, item, fragment->names_offset, fragment->names_count,
                              sizeof(*names), "names_offset", &array));
    for (uint32_t k = 0; k < fragment->names_count; k++)
        if (names[k].length == 0)
            return builder_refuse(builder, item, EDGE_ERR_INVALID, "names", "an empty name");
    for (uint32_t k = 0; k < fragment->names_count; k++)
        BUILDER_TRY(builder_keep(builder, item, names[k], "names", &names[k].offset));
    return EDGE_OK;
}

void builder_forget_names(struct edge_builder *builder, struct item item)
{
    const struct edge_fragment_certificate *fragment = (const void *)item.head;

    for (uint32_t k = 0; k < fragment->names_count; k++)
        builder_forget(builder, names_of(&item)[k].offset);
}

/* The first certificate that has a name gets it: the caller ordered them. */
static int put_server_name(struct edge_builder *builder, const struct edge_image_table *table,
                           struct item item, uint32_t certificate, uint32_t name)
{
    const struct edge_fragment_certificate *fragment = (const void *)item.head;
    const struct atom *known = &builder->texts.at[name];
    bool reject = fragment->role == EDGE_CERTIFICATE_REJECT;
    struct edge_image_sni_entry *entries =
        (struct edge_image_sni_entry *)(void *)builder->section[EDGE_SECTION_SNI_ENTRY].bytes +
        table->first_entry;
    struct edge_text text;
    uint32_t at;

    BUILDER_TRY(builder_place(builder, name, &text));
    for (at = known->hash & table->mask; entries[at].name.length != 0; at = (at + 1) & table->mask)
        if (entries[at].name.offset == text.offset && entries[at].name.length == text.length)
            return EDGE_OK;
    entries[at] = (struct edge_image_sni_entry){
        .name = text,
        .hash = known->hash,
        .wildcard = known->bytes[0] == '.',
        .action = reject ? EDGE_SNI_REJECT : EDGE_SNI_TERMINATE,
        .certificate = reject ? 0 : certificate,
    };
    builder->section[EDGE_SECTION_SNI_ENTRY].origin[table->first_entry + at] = item.number;
    return EDGE_OK;
}

static int lay_server_table(struct edge_builder *builder, const struct domain *domain)
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
        if (fragment->domain != domain->number)
            continue;
        if (fragment->role == EDGE_CERTIFICATE_DEFAULT && table->fallback == 0)
            table->fallback = i + 1;
        for (uint32_t k = 0; k < fragment->names_count; k++)
            BUILDER_TRY(put_server_name(builder, table, given->at[i], i,
                                        names_of(&given->at[i])[k].offset));
    }
    return EDGE_OK;
}

int builder_lay_server_names(struct edge_builder *builder)
{
    const struct items *given = &builder->items[EDGE_FRAGMENT_CERTIFICATE];
    bool rejecting = false;

    for (uint32_t i = 0; i < given->count; i++) {
        const struct edge_fragment_certificate *fragment = (const void *)given->at[i].head;
        struct edge_image_certificate *entry;
        struct domain *domain;
        BUILDER_TRY(builder_domain(builder, given->at[i], fragment->domain, &domain));
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
        BUILDER_TRY(lay_server_table(builder, &builder->domain[d]));
    return EDGE_OK;
}
