/* Equal bytes once, at the same price whatever the bytes are: probes are counted, not time.
 *
 * links: base/hash.c */
#include "snapshot/atoms.c"

#include <stdio.h>

#include "tap.h"

#define MANY 20000

/* Bytes of 16 to begin with, 8 that are the state behind them, and 8 that are chosen. */
static void begin(char text[32], uint64_t *state)
{
    memcpy(text, "/DvfWQvQtkzp~PgC", 16);
    *state = hash_pair(HASH_ODD_B ^ 32, hash_load(text), hash_load(text + 8));
    memcpy(text + 16, state, 8);
}

/* All have one edge_text_hash: the last word is solved for, which its fixed seed cannot prevent. */
static void colliding(char text[32], uint32_t number)
{
    uint64_t state, end = (uint64_t)number << 32 | (number ^ UINT32_C(0x1234567)), word;

    begin(text, &state);
    word = (end - state) ^ (state << 32 | state >> 32);
    memcpy(text + 24, &word, 8);
}

static uint64_t probes_of(void (*make)(char[32], uint32_t), uint32_t *hashes)
{
    struct atoms atoms = {.at = NULL};
    uint64_t probes;
    char text[33];
    uint32_t wrong = 0, first = 0;
    bool fresh;

    *hashes = 0;
    for (uint32_t i = 0; i < MANY; i++) {
        make(text, i);
        wrong += atoms_get(&atoms, text, 32, &fresh) != i || !fresh;
        first = i == 0 ? atoms.at[0].hash : first;
        *hashes += i == 0 || atoms.at[i].hash != first;
    }
    for (uint32_t i = 0; i < MANY; i++) {
        make(text, i);
        wrong += atoms_get(&atoms, text, 32, &fresh) != i || fresh;
    }
    probes = atoms.probes;
    for (uint32_t i = 0; i < MANY; i++) {
        wrong += atoms_release(&atoms, i) || !atoms_release(&atoms, i);
        atoms_remove(&atoms, i);
    }
    IS(wrong, 0, "each is known by its number");
    IS(atoms.used, 0, "and goes");
    atoms_close(&atoms);
    return probes;
}

static void others(char text[32], uint32_t number)
{
    char line[33];

    snprintf(line, sizeof(line), "/some/path/of/a/tenant/%09u", number);
    memcpy(text, line, 32);
}

/* Printable, and one hash for all as long as a factor of 0 took the other along. */
static void free_characters(char text[32], uint32_t number)
{
    char line[33];

    snprintf(line, sizeof(line), "/DvfWQvQtkzp~PgCuJoa0Nkl%08u", number);
    memcpy(text, line, 32);
}

int main(void)
{
    uint32_t hashes;
    uint64_t usual = probes_of(others, &hashes), probes;

    OK(usual < 3 * MANY, "%u texts, twice: %lu probes", MANY, (unsigned long)usual);
    probes = probes_of(free_characters, &hashes);
    OK(probes < 3 * MANY, "eight free characters: %lu probes", (unsigned long)probes);
    OK(hashes > MANY - 100, "and hashes that differ: %u", hashes);
    probes = probes_of(colliding, &hashes);
    IS(hashes, 1, "one hash for all");
    OK(probes < 3 * MANY, "costs no more: %lu probes", (unsigned long)probes);
    return tap_done();
}
