/* Equal bytes once: each entry is known by its number, and counted.
 *
 * Used by the image builder for texts and for what routes share. A number stays the same as long as
 * the entry is used. `place` is the user's: where the entry lies in the image that is laid out. */
#ifndef EDGE_SNAPSHOT_ATOMS_H
#define EDGE_SNAPSHOT_ATOMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ATOM_NONE UINT32_MAX

struct atom {
    uint8_t *bytes; /* NULL: the number is free, and `length` the next free one */
    void *extra;    /* the user's, NULL at first; freed with the entry */
    uint32_t length;
    uint32_t hash; /* edge_text_hash, for the image */
    uint32_t key;  /* where it stands in `slots` */
    uint32_t uses;
};

struct atoms {
    struct atom *at;
    uint32_t *place; /* ATOM_NONE: not laid out yet */
    uint32_t count;  /* numbers given, free ones too */
    uint32_t room;
    uint32_t used;   /* entries */
    uint32_t free;   /* number + 1 */
    uint32_t *slots; /* number + 1, open addressing */
    uint32_t mask;
    uint64_t seed;   /* random, of `key`: whoever chooses bytes cannot choose where they stand */
    uint64_t probes; /* slots that were looked at, ever */
};

/* The number of an entry with these bytes, used once more; ATOM_NONE: no memory. *fresh: it was not
 * there before. */
uint32_t atoms_get(struct atoms *atoms, const void *bytes, uint32_t length, bool *fresh);

/* One use less. Shape: whether that was the last: then the caller lets go of what the bytes name,
 * and calls atoms_remove(). */
bool atoms_release(struct atoms *atoms, uint32_t id);
void atoms_remove(struct atoms *atoms, uint32_t id);

/* Nothing is laid out yet. */
void atoms_unplace(struct atoms *atoms);

void atoms_close(struct atoms *atoms);

#endif
