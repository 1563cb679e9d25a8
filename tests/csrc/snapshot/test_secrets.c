/* The layout of the secrets: accepted, and refused for each thing that can be wrong.
 *
 * links: base/error.c */
#include "snapshot/secrets.c"

#include "tap.h"

struct sample {
    struct edge_secrets_header header;
    struct edge_secret secret[2];
    char text[16];
};

static struct sample sample;

static void restore(void)
{
    const uint32_t texts = offsetof(struct sample, text);

    sample = (struct sample){
        .header = {.magic = EDGE_SECRETS_MAGIC, .total_bytes = sizeof(sample), .count = 2},
        .secret = {{{1}, texts, 4, texts + 4, 4}, {{2}, texts + 8, 4, texts + 12, 4}},
    };
}

#define REFUSES(change, wanted)                                                                    \
    do {                                                                                           \
        struct edge_error err = {0};                                                               \
        restore();                                                                                 \
        change;                                                                                    \
        IS(edge_secrets_check((void *)&sample, sizeof(sample), &err), wanted, "%s", #change);      \
    } while (0)

int main(void)
{
    struct edge_error err;

    restore();
    IS(edge_secrets_check((void *)&sample, sizeof(sample), &err), EDGE_OK, "good");
    IS(edge_secrets_check((void *)&sample, 10, &err), EDGE_ERR_TRUNCATED, "too short");
    IS(edge_secrets_check((uint8_t *)&sample + 1, 64, &err), EDGE_ERR_INVALID, "not aligned");
    REFUSES(sample.header.magic++, EDGE_ERR_INVALID);
    REFUSES(sample.header.total_bytes++, EDGE_ERR_TRUNCATED);
    REFUSES(sample.header.count = UINT32_MAX, EDGE_ERR_TRUNCATED);
    REFUSES(sample.header.reserved = 1, EDGE_ERR_INVALID);
    REFUSES(sample.secret[1].key_bytes = 0, EDGE_ERR_SECRET);
    REFUSES(sample.secret[1].key_bytes = UINT32_MAX, EDGE_ERR_REFERENCE);
    REFUSES(sample.secret[1].chain_offset = UINT32_MAX, EDGE_ERR_REFERENCE);
    REFUSES(sample.secret[0].chain_offset = 0, EDGE_ERR_REFERENCE);
    REFUSES(sample.secret[1].digest[0] = 1, EDGE_ERR_INVALID);
    return tap_done();
}
