/* The hash of names: all bytes count, and names like those of a cluster spread well. */
#include "base/hash.c"

#include "tap.h"

int main(void)
{
    static uint8_t seen[1 << 17];
    char text[64] = "abcdefghijklmnopqrstuvwxyz";
    uint32_t before = edge_text_hash(text, 26), same = 0, hit = 0;

    for (int at = 0; at < 26; at++) {
        text[at] ^= 1;
        same += edge_text_hash(text, 26) == before;
        text[at] ^= 1;
    }
    IS(same, 0, "each byte counts");
    OK(edge_text_hash("a\0", 2) != edge_text_hash("a", 1), "length counts");
    IS(edge_text_hash("", 0), edge_text_hash("x", 0), "nothing is nothing");
    for (int i = 0; i < 50000; i++) {
        int length = snprintf(text, sizeof(text), "host-%d.example.org", i);
        uint32_t bucket = edge_text_hash(text, (size_t)length) % sizeof(seen);
        hit += seen[bucket] == 0;
        seen[bucket] = 1;
    }
    /* 131072 * (1 - exp(-50000/131072)) = 41573 for a perfect one. */
    OK(hit > 41000, "%u buckets hit by 50,000 names", hit);
    return tap_done();
}
