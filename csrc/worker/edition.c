/* Making editions: certificates parsed once, server names copied out of the image.
 *
 * A handshake may outlive the version that it began under, so a TLS server owns what it looks up:
 * its listener's table of names and the certificates. Called by control.c. Never on a worker. */
#include "worker/edition.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "match/matcher.h"

struct cached {
    struct list link;
    uint8_t digest[32];
    struct tls_certificate *certificate;
    bool used; /* by the edition being made */
};

/* What a TLS server looks names up in; a miniature image of one listener. */
struct names {
    struct image image;
    struct edge_image_listener listener;
    struct edge_image_table table;
    struct edge_image_sni_entry *entries;
    char *text;
    uint32_t certificate_count;
    struct tls_certificate *certificates[];
};

void certificate_cache_init(struct certificate_cache *cache)
{
    list_init(&cache->certificates);
    cache->patterns = 0;
}

static void forget(struct cached *cached)
{
    list_remove(&cached->link);
    tls_certificate_release(cached->certificate);
    free(cached);
}

void certificate_cache_release(struct certificate_cache *cache)
{
    LIST_EACH(at, after, &cache->certificates)
    forget(LIST_OWNER(at, struct cached, link));
    pattern_set_release(cache->patterns);
}

/* The cache by digest while one edition is made: digests are SHA-256, so their first bytes are as
 * good as any hash. Made anew each time: its size follows the image's. */
struct index {
    uint32_t mask;
    struct cached **at;
};

static void index_add(struct index *index, struct cached *cached)
{
    uint32_t place;
    memcpy(&place, cached->digest, sizeof place);
    while (index->at[place & index->mask])
        place++;
    index->at[place & index->mask] = cached;
}

static int index_create(struct certificate_cache *cache, uint32_t more, struct index *index)
{
    uint64_t entries = more, size = 1;
    LIST_EACH(at, after, &cache->certificates)
    entries++;
    while (size < entries * 2 + 1)
        size *= 2;
    index->mask = (uint32_t)size - 1;
    index->at = calloc(size, sizeof(struct cached *));
    if (!index->at)
        return EDGE_ERR_NOMEM;
    LIST_EACH(at, after, &cache->certificates)
    index_add(index, LIST_OWNER(at, struct cached, link));
    return EDGE_OK;
}

static struct cached *look_up(const struct index *index, const uint8_t digest[32])
{
    uint32_t place;
    memcpy(&place, digest, sizeof place);
    for (struct cached *cached; (cached = index->at[place & index->mask]); place++)
        if (memcmp(cached->digest, digest, 32) == 0)
            return cached;
    return 0;
}

/* The digests rise: edge_secrets_check saw to it. */
static const struct edge_secret *find_secret(const uint8_t *secrets, const uint8_t digest[32])
{
    const struct edge_secrets_header *header = (const void *)secrets;
    const struct edge_secret *entries = (const void *)(header + 1);
    uint32_t low = 0, high = secrets ? header->count : 0;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = memcmp(entries[middle].digest, digest, 32);
        if (order == 0)
            return &entries[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

static int parse(struct certificate_cache *cache, struct index *known, const struct image *image,
                 uint32_t index, const uint8_t *secrets, struct cached **out,
                 struct edge_error *err)
{
    const uint8_t *digest = image->certificates[index].digest;
    *out = look_up(known, digest);
    if (*out)
        return EDGE_OK;
    const struct edge_secret *secret = find_secret(secrets, digest);
    if (!secret)
        return error_at(err, EDGE_ERR_SECRET, EDGE_SECTION_CERTIFICATE, index, "digest",
                        "the secrets have no such certificate");
    struct cached *cached = calloc(1, sizeof *cached);
    if (!cached)
        return error_set(err, EDGE_ERR_NOMEM, "no memory for a certificate");
    int rc = tls_certificate_create(secrets + secret->chain_offset, secret->chain_bytes,
                                    secrets + secret->key_offset, secret->key_bytes,
                                    &cached->certificate, err);
    if (rc < 0) {
        free(cached);
        if (err) {
            err->section = EDGE_SECTION_CERTIFICATE;
            err->index = index;
        }
        return rc;
    }
    memcpy(cached->digest, digest, 32);
    list_push_back(&cache->certificates, &cached->link);
    index_add(known, cached);
    *out = cached;
    return EDGE_OK;
}

static struct tls_certificate *choose(void *owner, struct slice name)
{
    struct names *names = owner;
    int32_t index = match_certificate(&names->image, 0, name);
    return index < 0 || (uint32_t)index >= names->certificate_count ? 0
                                                                    : names->certificates[index];
}

static void release_names(void *owner)
{
    struct names *names = owner;
    for (uint32_t i = 0; i < names->certificate_count; i++)
        tls_certificate_release(names->certificates[i]);
    free(names->entries);
    free(names->text);
    free(names);
}

static struct names *copy_names(const struct image *image, uint32_t listener,
                                struct cached *const *cached)
{
    const struct edge_image_table *table =
        &image->sni_tables[image->listeners[listener].sni_table - 1];
    uint32_t buckets = table->mask + 1, count = image->count[EDGE_SECTION_CERTIFICATE];
    const struct edge_image_sni_entry *entries = image->sni_entries + table->first_entry;
    size_t text_bytes = 1;
    for (uint32_t i = 0; i < buckets; i++)
        text_bytes += entries[i].name.length;
    struct names *names = calloc(1, sizeof *names + count * sizeof(struct tls_certificate *));
    if (!names)
        return 0;
    names->entries = malloc(buckets * sizeof *entries);
    names->text = malloc(text_bytes);
    if (!names->entries || !names->text) {
        release_names(names);
        return 0;
    }
    uint32_t at = 0;
    for (uint32_t i = 0; i < buckets; i++) {
        names->entries[i] = entries[i];
        memcpy(names->text + at, image->text + entries[i].name.offset, entries[i].name.length);
        names->entries[i].name.offset = at;
        at += entries[i].name.length;
    }
    names->listener = image->listeners[listener];
    names->listener.sni_table = 1;
    names->table = *table;
    names->table.first_entry = 0;
    names->image.listeners = &names->listener;
    names->image.sni_tables = &names->table;
    names->image.sni_entries = names->entries;
    names->image.text = names->text;
    names->image.count[EDGE_SECTION_LISTENER] = 1;
    names->image.count[EDGE_SECTION_SNI_TABLE] = 1;
    names->image.count[EDGE_SECTION_SNI_ENTRY] = buckets;
    names->image.count[EDGE_SECTION_CERTIFICATE] = count;
    for (uint32_t i = 0; i < count; i++) {
        names->certificates[i] = cached[i]->certificate;
        tls_certificate_hold(names->certificates[i]);
    }
    names->certificate_count = count;
    return names;
}

static void forget_unused(struct certificate_cache *cache)
{
    LIST_EACH(at, after, &cache->certificates)
    {
        struct cached *cached = LIST_OWNER(at, struct cached, link);
        if (!cached->used)
            forget(cached);
        else
            cached->used = false;
    }
}

int edition_create(struct certificate_cache *cache, struct snapshot_view *view,
                   const uint8_t *secrets, struct edition **out, struct edge_error *err)
{
    const struct image *image = &view->image;
    uint32_t count = image->count[EDGE_SECTION_CERTIFICATE];
    struct edition *edition = calloc(1, sizeof *edition);
    struct cached **cached = calloc(count + 1, sizeof *cached);
    struct index known = {0};
    int rc = error_set(err, EDGE_ERR_NOMEM, "no memory for an edition");
    if (!edition || !cached || index_create(cache, count, &known) < 0)
        goto fail;
    for (uint32_t i = 0; i < count; i++) {
        if (cache->turn)
            cache->turn(cache->owner);
        rc = parse(cache, &known, image, i, secrets, &cached[i], err);
        if (rc < 0)
            goto fail;
    }
    rc = EDGE_ERR_NOMEM;
    for (uint32_t i = 0; i < image->count[EDGE_SECTION_LISTENER]; i++) {
        const struct edge_image_listener *listener = &image->listeners[i];
        if (listener->transport != EDGE_TRANSPORT_TLS || listener->sni_table == 0)
            continue;
        struct names *names = copy_names(image, i, cached);
        if (!names)
            goto fail;
        edition->tls[listener->slot] = tls_server_create(choose, names, release_names);
        if (!edition->tls[listener->slot]) {
            release_names(names);
            goto fail;
        }
    }
    rc = pattern_set_create(image, cache->patterns, &edition->patterns, err);
    if (rc < 0)
        goto fail;
    view->image.compiled = edition->patterns;
    pattern_set_release(cache->patterns);
    pattern_set_hold(edition->patterns);
    cache->patterns = edition->patterns;
    for (uint32_t i = 0; i < count; i++)
        cached[i]->used = true;
    forget_unused(cache);
    free(known.at);
    free(cached);
    edition->view = view;
    *out = edition;
    if (err)
        memset(err, 0, sizeof *err);
    return EDGE_OK;
fail:
    free(known.at);
    free(cached);
    if (edition)
        edition_release(edition);
    snapshot_view_release(view);
    return rc;
}

int edition_patched(const struct edition *base, struct snapshot_view *view, struct edition **out,
                    struct edge_error *err)
{
    struct edition *edition = calloc(1, sizeof *edition);
    if (!edition) {
        snapshot_view_release(view);
        return error_set(err, EDGE_ERR_NOMEM, "no memory for an edition");
    }
    edition->view = view;
    edition->patterns = base->patterns;
    pattern_set_hold(edition->patterns);
    for (int slot = 0; slot < EDGE_LISTENER_SLOTS; slot++) {
        edition->tls[slot] = base->tls[slot];
        if (edition->tls[slot])
            tls_server_hold(edition->tls[slot]);
    }
    *out = edition;
    return EDGE_OK;
}

void edition_release(struct edition *edition)
{
    for (int slot = 0; slot < EDGE_LISTENER_SLOTS; slot++)
        if (edition->tls[slot])
            tls_server_release(edition->tls[slot]);
    pattern_set_release(edition->patterns);
    if (edition->view)
        snapshot_view_release(edition->view);
    free(edition);
}
