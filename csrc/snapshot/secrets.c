/* The layout of the secrets memory: digests, and where chain and key of each stand.
 *
 * Called by the controller after it encoded them and by the data plane before it parses keys;
 * never reads the PEM texts themselves, never copies a key. */
#include <string.h>

#include "base/error.h"

static int check_part(const struct edge_secret *secret, uint32_t index, uint64_t first,
                      uint64_t size, struct edge_error *err)
{
    const uint32_t part[2][2] = {{secret->chain_offset, secret->chain_bytes},
                                 {secret->key_offset, secret->key_bytes}};
    static const char *const field[2] = {"chain_offset", "key_offset"};

    for (uint32_t i = 0; i < 2; i++) {
        if (part[i][1] == 0)
            return error_at(err, EDGE_ERR_SECRET, EDGE_SECTION_CERTIFICATE, index, field[i],
                            "is empty");
        if (part[i][0] < first || part[i][0] > size || part[i][1] > size - part[i][0])
            return error_at(err, EDGE_ERR_REFERENCE, EDGE_SECTION_CERTIFICATE, index, field[i],
                            "lies outside the secrets");
    }
    return EDGE_OK;
}

int edge_secrets_check(const uint8_t *bytes, size_t size, struct edge_error *err)
{
    const struct edge_secrets_header *header = (const void *)bytes;
    const struct edge_secret *secrets;
    uint64_t first;

    if (size < sizeof(*header))
        return error_set(err, EDGE_ERR_TRUNCATED, "%zu bytes are no secrets", size);
    if ((uintptr_t)bytes % 8 != 0)
        return error_set(err, EDGE_ERR_INVALID, "the secrets do not start at a multiple of 8");
    if (header->magic != EDGE_SECRETS_MAGIC)
        return error_set(err, EDGE_ERR_INVALID, "these bytes are no secrets");
    if (size > EDGE_IMAGE_BYTES_MAX)
        return error_set(err, EDGE_ERR_LIMIT, "%zu bytes are too many", size);
    if (header->total_bytes != size)
        return error_set(err, EDGE_ERR_TRUNCATED, "%zu bytes, not as the header says", size);
    if (header->reserved != 0)
        return error_at(err, EDGE_ERR_INVALID, 0, 0, "reserved", "must be zero");
    if (header->count > (size - sizeof(*header)) / sizeof(*secrets))
        return error_at(err, EDGE_ERR_TRUNCATED, 0, 0, "count", "the entries do not fit");
    secrets = (const void *)(header + 1);
    first = sizeof(*header) + header->count * (uint64_t)sizeof(*secrets);
    for (uint32_t i = 0; i < header->count; i++) {
        int rc = check_part(&secrets[i], i, first, size, err);
        if (rc != EDGE_OK)
            return rc;
        /* Sorted by digest: then the same digest twice is seen, and finding one may bisect. */
        if (i > 0 && memcmp(secrets[i - 1].digest, secrets[i].digest, 32) >= 0)
            return error_at(err, EDGE_ERR_INVALID, EDGE_SECTION_CERTIFICATE, i, "digest",
                            "digests do not rise");
    }
    if (err != NULL)
        *err = (struct edge_error){0};
    return EDGE_OK;
}
