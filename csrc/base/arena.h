/* Memory with one lifetime: many small allocations, one release.
 *
 * Used by exchanges (one arena a request) and by builders. Blocks come from a cache that belongs
 * to one worker, so that a warm request allocates nothing. Never shared between threads, never
 * frees a single allocation. */
#ifndef EDGE_BASE_ARENA_H
#define EDGE_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

#define ARENA_BLOCK_BYTES 2048
#define ARENA_CACHE_BLOCKS_MAX 256

struct arena_block {
    struct arena_block *next;
    size_t bytes; /* usable, after this header */
};

/* Standard blocks waiting for reuse; zeroed is empty. One for each worker. */
struct arena_cache {
    struct arena_block *free;
    uint32_t count;
};

struct arena {
    struct arena_block *blocks; /* newest first */
    uint8_t *at;
    uint8_t *end;
    struct arena_cache *cache; /* may be NULL */
};

void arena_init(struct arena *arena, struct arena_cache *cache);

/* Aligned to 8 bytes, not cleared. NULL: no memory. */
void *arena_alloc(struct arena *arena, size_t bytes);
void *arena_zalloc(struct arena *arena, size_t bytes);

/* A copy of the text, with a NUL behind it for C interfaces. at == NULL: no memory. */
struct slice arena_copy(struct arena *arena, struct slice text);

/* Gives all memory back; the arena is empty and usable again. */
void arena_release(struct arena *arena);

void arena_cache_release(struct arena_cache *cache);

#endif
