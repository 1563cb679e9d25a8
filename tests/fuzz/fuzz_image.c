/* Fuzzes what reads foreign bytes of a snapshot: images, fragments, secrets.
 *
 * Built by tests/fuzz/run.py. sources: base/error.c base/hash.c base/pattern.c
 * snapshot/build.c snapshot/builder.c snapshot/build_hosts.c snapshot/build_names.c
 * snapshot/build_paths.c snapshot/build_routes.c
 * snapshot/build_upstreams.c snapshot/atoms.c snapshot/check.c snapshot/check_names.c
 * snapshot/check_paths.c snapshot/check_routes.c snapshot/image.c snapshot/path_index.c
 * snapshot/secrets.c match/explain.c match/fields.c match/host.c match/matcher.c match/path.c
 * match/paths.c match/patterns.c
 * The first byte says which. Held true: refused, or everything in it can be used; what the builder
 * makes is accepted. An image's size and checksum are made right first, or nothing would get in. */
#include <stdlib.h>

#include "../csrc/snapshot/exercise.h"

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            abort();                                                                               \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_image(uint8_t *bytes, size_t size)
{
    if (size >= sizeof(struct edge_image_header)) {
        ((struct edge_image_header *)(void *)bytes)->total_bytes = size;
        edge_image_seal(bytes, size);
    }
    if (edge_image_check(bytes, size, NULL) == EDGE_OK)
        exercise_image(bytes, size);
}

static void try_fragments(const uint8_t *bytes, size_t size, uint32_t kind)
{
    struct edge_build_options options = {
        .kind = kind, .version = 2, .base_version = kind == EDGE_IMAGE_PATCH};
    struct edge_error err;
    struct edge_image image;

    if (edge_image_build(bytes, size, &options, &image, &err) == EDGE_OK) {
        MUST(edge_image_check(image.bytes, image.size, &err) == EDGE_OK);
        exercise_image(image.bytes, image.size);
    } else {
        MUST(image.bytes == NULL && err.code < 0 && err.reason[0] != '\0');
    }
    edge_image_free(&image);
}

static void try_secrets(const uint8_t *bytes, size_t size)
{
    const struct edge_secrets_header *header = (const void *)bytes;
    const struct edge_secret *secrets = (const void *)(header + 1);

    if (edge_secrets_check(bytes, size, NULL) != EDGE_OK)
        return;
    for (uint32_t i = 0; i < header->count; i++)
        exercise_sink += bytes[secrets[i].chain_offset + secrets[i].chain_bytes - 1] +
                         bytes[secrets[i].key_offset + secrets[i].key_bytes - 1];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy;

    if (size < 1 || size > 1 << 20)
        return 0;
    copy = malloc(size); /* aligned, and its end is the end of what may be read */
    if (copy == NULL)
        return 0;
    memcpy(copy, data + 1, size - 1);
    if (data[0] % 4 == 0)
        try_image(copy, (size - 1) & ~(size_t)63);
    else if (data[0] % 4 == 3)
        try_secrets(copy, size - 1);
    else
        try_fragments(copy, size - 1, data[0] % 4);
    free(copy);
    return 0;
}
