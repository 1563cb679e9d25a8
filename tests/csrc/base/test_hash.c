/* The hash of names: all bytes count, and names like those of a cluster spread well. */
#include "base/hash.c"

#include "tap.h"

/* How many of the texts that differ in their last eight bytes alone have another hash. */
static uint32_t hashes_of_family(const char *begin)
{
    static uint8_t seen[1 << 16];
    char text[64];
    uint32_t found = 0;

    memset(seen, 0, sizeof(seen));
    for (int i = 0; i < 1000; i++) {
        int length = snprintf(text, sizeof(text), "%s%08d", begin, i * 97);
        uint32_t hash = edge_text_hash(text, (size_t)length);
        uint8_t *at = &seen[(hash ^ hash >> 16) & 0xffff];
        found += *at == 0;
        *at = 1;
    }
    return found;
}

/* A factor of the product that is 0 takes nothing along: neither the other one nor the state. */
static void test_no_word_absorbs(void)
{
    const uint64_t other = hash_pair(7, 7, 1);
    uint64_t states[2];

    OK(hashes_of_family("/DvfWQvQtkzp~PgCuJoa0Nkl") > 950, "chosen so that a word is the state");
    OK(hashes_of_family("/some/path/of/a/tenant/.") > 950, "others");
    OK(hash_pair(7, 7, 2) != other && hash_pair(8, 8, 1) != other, "the first factor is 0");
    states[0] = hash_pair(1, 5, HASH_ODD_A);
    states[1] = hash_pair(2, 5, HASH_ODD_A);
    OK(states[0] != states[1] && hash_pair(1, 6, HASH_ODD_A) != states[0], "the second one is");
    OK(hash_pair(0, 0, HASH_ODD_A) != hash_pair(1, 1, HASH_ODD_A), "both are");
}

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
    test_no_word_absorbs();
    return tap_done();
}
