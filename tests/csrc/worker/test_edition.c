/* Editions of many certificates: each is found by its digest, parsed once, and costs its own size.
 *
 * Counts comparisons instead of taking the time. TLS, expressions and names are stand-ins here.
 *
 * links: base/error.c */
#include <string.h>

static unsigned long comparisons;

static int counted(const void *one, const void *other, size_t bytes)
{
    comparisons++;
    return memcmp(one, other, bytes);
}

#define memcmp counted
#include "worker/edition.c"
#undef memcmp

#include "tap.h"

#define CERTIFICATES 10000
#define COMPARISONS_EACH 20 /* bisecting 10,000 takes 14; a list took 5,000 */

struct tls_certificate {
    uint32_t number;
};

static struct tls_certificate parsed[CERTIFICATES];
static unsigned parses, released;

int tls_certificate_create(const uint8_t *chain, size_t chain_bytes, const uint8_t *key,
                           size_t key_bytes, struct tls_certificate **out, struct edge_error *err)
{
    uint32_t number;
    (void)key, (void)err;
    memcpy(&number, chain, sizeof number);
    parses++;
    parsed[number].number = number + (uint32_t)(chain_bytes - key_bytes);
    *out = &parsed[number];
    return EDGE_OK;
}

void tls_certificate_hold(struct tls_certificate *certificate)
{
    (void)certificate;
}

void tls_certificate_release(struct tls_certificate *certificate)
{
    (void)certificate;
    released++;
}

struct tls_server *tls_server_create(struct tls_certificate *(*pick)(void *, struct slice),
                                     void *owner, void (*release)(void *))
{
    (void)pick, (void)owner, (void)release;
    return 0;
}

void tls_server_hold(struct tls_server *server)
{
    (void)server;
}

void tls_server_release(struct tls_server *server)
{
    (void)server;
}

int32_t match_certificate(const struct image *image, uint32_t listener, struct slice name)
{
    (void)image, (void)listener, (void)name;
    return -1;
}

int pattern_set_create(const struct image *image, const struct pattern_set *old,
                       struct pattern_set **out, struct edge_error *err)
{
    (void)image, (void)old, (void)err;
    *out = 0;
    return EDGE_OK;
}

void pattern_set_hold(struct pattern_set *set)
{
    (void)set;
}

void pattern_set_release(struct pattern_set *set)
{
    (void)set;
}

void snapshot_view_release(struct snapshot_view *view)
{
    (void)view;
}

static struct {
    struct edge_secrets_header header;
    struct edge_secret entries[CERTIFICATES];
    uint32_t chains[CERTIFICATES];
} secrets;
static struct edge_image_certificate listed[CERTIFICATES];

/* Digests rise in the secrets, and stand in another order in the image. */
static void digest_of(uint32_t number, uint8_t digest[32])
{
    memset(digest, 0, 32);
    for (int i = 0; i < 4; i++)
        digest[i] = (uint8_t)(number >> (24 - 8 * i));
    for (int i = 4; i < 32; i++)
        digest[i] = (uint8_t)(number * 7 + (uint32_t)i);
}

static void fill(void)
{
    secrets.header.count = CERTIFICATES;
    for (uint32_t i = 0; i < CERTIFICATES; i++) {
        struct edge_secret *entry = &secrets.entries[i];
        digest_of(i * 401771, entry->digest);
        entry->chain_offset = (uint32_t)((uint8_t *)&secrets.chains[i] - (uint8_t *)&secrets);
        entry->key_offset = entry->chain_offset;
        entry->chain_bytes = entry->key_bytes = sizeof(uint32_t);
        secrets.chains[i] = i;
        memcpy(listed[(i * 7919) % CERTIFICATES].digest, entry->digest, 32);
    }
}

static int prepare(struct certificate_cache *cache, uint32_t count, struct edition **edition,
                   struct edge_error *err)
{
    static struct snapshot_view view;
    memset(&view, 0, sizeof view);
    view.image.certificates = listed;
    view.image.count[EDGE_SECTION_CERTIFICATE] = count;
    comparisons = parses = released = 0;
    return edition_create(cache, &view, (const uint8_t *)&secrets, edition, err);
}

int main(void)
{
    struct certificate_cache cache = {0};
    struct edge_error err = {0};
    struct edition *first, *second, *third;

    fill();
    certificate_cache_init(&cache);
    IS(prepare(&cache, CERTIFICATES, &first, &err), EDGE_OK, "all certificates are prepared");
    IS(parses, CERTIFICATES, "each is parsed once");
    OK(comparisons < CERTIFICATES * COMPARISONS_EACH, "found without looking through all: %lu",
       comparisons);

    IS(prepare(&cache, CERTIFICATES, &second, &err), EDGE_OK, "the next version has the same");
    IS(parses, 0, "none is parsed again");
    OK(comparisons < CERTIFICATES * COMPARISONS_EACH, "found without looking through all: %lu",
       comparisons);

    IS(prepare(&cache, 10, &third, &err), EDGE_OK, "the next version has ten of them");
    IS(released, CERTIFICATES - 10, "the others are forgotten");
    secrets.entries[5].digest[31]++;
    certificate_cache_release(&cache);
    certificate_cache_init(&cache);
    edition_release(first);
    IS(prepare(&cache, CERTIFICATES, &first, &err), EDGE_ERR_SECRET, "one that is missing");
    IS(err.index, (5 * 7919) % CERTIFICATES, "is named");

    certificate_cache_release(&cache);
    edition_release(second);
    edition_release(third);
    return tap_done();
}
