/* edge_text_hash: the hash that the host and server name tables of an image are laid out by.
 *
 * Called by snapshot/build.c, snapshot/check.c and match/host.c. The seed is fixed: builder and
 * reader are different processes, the table's contents come from the cluster's own objects, and a
 * request only ever looks up. A client who sends many names hits one probe sequence each, whose
 * length the image fixed. No part of a text can be made to count for nothing, but whoever may
 * create objects can still search for names that share a bucket, as with every fixed seed: the
 * table is at most four fifths full. The builder, which all of them share, keeps texts by a seed of
 * its own. */
#include "base/hash.h"

#include "include/edge.h"

uint32_t edge_text_hash(const char *text, size_t length)
{
    return hash_end(hash_text(HASH_ODD_B, text, length));
}
