/* Equal bytes once, counted: see atoms.h.
 *
 * Called by builder.c and build*.c. Open addressing without marks for what was removed: those
 * behind it move up. */
#include "snapshot/atoms.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/hash.h"
#include "include/edge.h"

static bool grow_table(struct atoms *atoms)
{
    const uint32_t mask = atoms->mask == 0 ? 63 : 2 * atoms->mask + 1;
    uint32_t *slots = calloc(mask + (size_t)1, sizeof(*slots));

    if (slots == NULL)
        return false;
    if (atoms->slots == NULL &&
        getrandom(&atoms->seed, sizeof(atoms->seed), GRND_NONBLOCK) != sizeof(atoms->seed))
        atoms->seed = (uintptr_t)slots * HASH_ODD_A; /* as random as the kernel's places */
    for (uint32_t id = 0; id < atoms->count; id++) {
        uint32_t at = atoms->at[id].key & mask;
        if (atoms->at[id].bytes == NULL)
            continue;
        while (slots[at] != 0)
            at = (at + 1) & mask;
        slots[at] = id + 1;
    }
    free(atoms->slots);
    atoms->slots = slots;
    atoms->mask = mask;
    return true;
}

static bool grow(struct atoms *atoms)
{
    const uint32_t room = 2 * atoms->room + 16;
    void *at = realloc(atoms->at, room * sizeof(*atoms->at)), *place;

    if (at == NULL)
        return false;
    atoms->at = at;
    place = realloc(atoms->place, room * sizeof(*atoms->place));
    if (place == NULL)
        return false;
    atoms->place = place;
    atoms->room = room;
    return true;
}

static uint32_t add(struct atoms *atoms, uint32_t slot, const void *bytes, uint32_t length,
                    uint32_t key)
{
    uint8_t *copy;
    uint32_t id;

    if (atoms->free == 0 && atoms->count == atoms->room && !grow(atoms))
        return ATOM_NONE;
    copy = malloc(length + (size_t)1);
    if (copy == NULL)
        return ATOM_NONE;
    memcpy(copy, bytes, length);
    if (atoms->free != 0) {
        id = atoms->free - 1;
        atoms->free = atoms->at[id].length;
    } else {
        id = atoms->count++;
    }
    atoms->at[id] = (struct atom){.bytes = copy,
                                  .length = length,
                                  .hash = edge_text_hash(bytes, length),
                                  .key = key,
                                  .uses = 1};
    atoms->place[id] = ATOM_NONE;
    atoms->slots[slot] = id + 1;
    atoms->used++;
    return id;
}

uint32_t atoms_get(struct atoms *atoms, const void *bytes, uint32_t length, bool *fresh)
{
    uint32_t key, at;

    *fresh = false;
    if ((atoms->slots == NULL || 2 * atoms->used >= atoms->mask) && !grow_table(atoms))
        return ATOM_NONE;
    key = hash_end(hash_text(atoms->seed, bytes, length));
    for (at = key & atoms->mask; atoms->slots[at] != 0; at = (at + 1) & atoms->mask) {
        struct atom *known = &atoms->at[atoms->slots[at] - 1];
        atoms->probes++;
        if (known->key == key && known->length == length &&
            memcmp(known->bytes, bytes, length) == 0) {
            known->uses++;
            return atoms->slots[at] - 1;
        }
    }
    *fresh = true;
    return add(atoms, at, bytes, length, key);
}

bool atoms_release(struct atoms *atoms, uint32_t id)
{
    return --atoms->at[id].uses == 0;
}

void atoms_remove(struct atoms *atoms, uint32_t id)
{
    struct atom *entry = &atoms->at[id];
    uint32_t hole = entry->key & atoms->mask;

    while (atoms->slots[hole] != id + 1)
        hole = (hole + 1) & atoms->mask;
    for (uint32_t at = (hole + 1) & atoms->mask; atoms->slots[at] != 0;
         at = (at + 1) & atoms->mask) {
        const uint32_t home = atoms->at[atoms->slots[at] - 1].key & atoms->mask;
        if (((at - home) & atoms->mask) < ((at - hole) & atoms->mask))
            continue; /* a lookup for it begins behind the hole */
        atoms->slots[hole] = atoms->slots[at];
        hole = at;
    }
    atoms->slots[hole] = 0;
    free(entry->bytes);
    free(entry->extra);
    *entry = (struct atom){.length = atoms->free};
    atoms->free = id + 1;
    atoms->used--;
}

void atoms_unplace(struct atoms *atoms)
{
    if (atoms->count > 0)
        memset(atoms->place, 0xff, atoms->count * sizeof(*atoms->place));
}

void atoms_close(struct atoms *atoms)
{
    for (uint32_t id = 0; id < atoms->count; id++) {
        free(atoms->at[id].bytes);
        free(atoms->at[id].extra);
    }
    free(atoms->at);
    free(atoms->place);
    free(atoms->slots);
    *atoms = (struct atoms){.at = NULL};
}
