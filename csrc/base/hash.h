/* Hashes: of names for the image's tables, and of words for checksums.
 *
 * Called by snapshot (build, check) and match. Not for secrets, not against an attacker who can
 * choose table contents: see edge_text_hash in hash.c. */
#ifndef EDGE_BASE_HASH_H
#define EDGE_BASE_HASH_H

#include <stdint.h>
#include <string.h>

#define HASH_ODD_A UINT64_C(0x9e3779b97f4a7c15)
#define HASH_ODD_B UINT64_C(0xd6e8feb86659fd93)

/* One to one, so that two different inputs never meet. */
static inline uint64_t hash_mix(uint64_t word)
{
    word ^= word >> 32;
    word *= HASH_ODD_B;
    word ^= word >> 32;
    word *= HASH_ODD_B;
    return word ^ word >> 32;
}

static inline uint64_t hash_word(uint64_t state, uint64_t word)
{
    state = (state ^ word) * HASH_ODD_A;
    return state ^ state >> 29;
}

/* Two words at the price of one multiplication: both halves of their product. And all three beside
 * it, because a factor of 0 takes the other one along: who chooses `a` can make it the state. */
static inline uint64_t hash_pair(uint64_t state, uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)(state ^ a) * (b ^ HASH_ODD_A);

    return ((uint64_t)product ^ (uint64_t)(product >> 64) ^ b ^ (a << 32 | a >> 32)) + state;
}

/* What is left of a state in the end: a bucket's number below, its tag above. */
static inline uint32_t hash_end(uint64_t state)
{
    return (uint32_t)(state ^ state >> 32);
}

static inline uint64_t hash_load(const void *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof(word));
    return word;
}

/* 0 to 7 bytes as the low ones of a word, the others 0. */
static inline uint64_t hash_load_part(const char *at, size_t length)
{
    uint32_t first, last;

    if (length >= 4) {
        memcpy(&first, at, 4);
        memcpy(&last, at + length - 4, 4);
        return (uint64_t)last << 8 * (length - 4) | first;
    }
    if (length == 0)
        return 0;
    return (uint64_t)(uint8_t)at[0] | (uint64_t)(uint8_t)at[length / 2] << 8 * (length / 2) |
           (uint64_t)(uint8_t)at[length - 1] << 8 * (length - 1);
}

/* The state behind a text. From a first state that is a secret, nobody can choose texts that meet.
 */
static inline uint64_t hash_text(uint64_t state, const char *text, size_t length)
{
    uint64_t a, b = 0;

    for (state ^= length; length >= 16; text += 16, length -= 16)
        state = hash_pair(state, hash_load(text), hash_load(text + 8));
    if (length > 0) {
        a = length >= 8 ? hash_load(text) : hash_load_part(text, length);
        if (length > 8)
            b = hash_load_part(text + 8, length - 8);
        state = hash_pair(state, a, b);
    }
    return state;
}

#endif
