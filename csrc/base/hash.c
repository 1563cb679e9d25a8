/* edge_text_hash: the hash that the host and server name tables of an image are laid out by.
 *
 * Called by snapshot/build.c, snapshot/check.c and match/host.c. The seed is fixed: builder and
 * reader are different processes, the table's contents come from the cluster's own objects, and a
 * request only ever looks up. A client who sends many names hits one probe sequence each, whose
 * length the image fixed. Whoever may create Ingress objects can make probes longer, by names that
 * collide, for their own hosts' buckets; the table is at most four fifths full. */
#include "base/hash.h"

#include "include/edge.h"

uint32_t edge_text_hash(const char *text, size_t length)
{
    uint64_t state = HASH_ODD_B ^ length, a, b = 0;

    for (; length >= 16; text += 16, length -= 16)
        state = hash_pair(state, hash_load(text), hash_load(text + 8));
    if (length > 0) {
        a = length >= 8 ? hash_load(text) : hash_load_part(text, length);
        if (length > 8)
            b = hash_load_part(text + 8, length - 8);
        state = hash_pair(state, a, b);
    }
    return hash_end(state);
}
