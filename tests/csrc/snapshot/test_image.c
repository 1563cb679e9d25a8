/* Checksum: every changed word changes it; its own field does not count.
 *
 * links: base/error.c base/hash.c */
#include "snapshot/image.c"

#include "tap.h"

int main(void)
{
    _Alignas(8) uint8_t bytes[1024] = {1, 2, 3};
    uint64_t before;
    uint32_t same = 0;

    for (size_t size = 488; size <= 512; size += 8) {
        before = image_checksum(bytes, size);
        for (size_t at = 0; at < size; at++)
            for (int bit = 0; bit < 8; bit++) {
                bool own = at >= 24 && at < 32;
                bytes[at] ^= (uint8_t)(1 << bit);
                same += (image_checksum(bytes, size) == before) != own;
                bytes[at] ^= (uint8_t)(1 << bit);
            }
        OK(before != image_checksum(bytes, size + 8), "zeroes behind count, size %zu", size);
    }
    IS(same, 0, "each bit counts, but the checksum's own");
    edge_image_seal(bytes, 512);
    OK(((struct edge_image_header *)(void *)bytes)->checksum == image_checksum(bytes, 512), "seal");
    IS(image_entry_bytes(EDGE_SECTION_TEXT), 1, "texts are bytes");
    IS(image_entry_bytes(EDGE_SECTION_COUNT), 0, "no such section");
    return tap_done();
}
