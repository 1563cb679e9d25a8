/* The bump allocator of arena.h.
 *
 * Called by exchanges and builders. A block of the standard size goes back to the worker's cache;
 * larger ones, made for a single large allocation, go back to malloc. */
#include "base/arena.h"

#include <stdlib.h>

/* A sanitizer sees a use after the end only when the memory was really freed. */
#ifdef EDGE_NO_REUSE
#define KEPT_MAX 0u
#else
#define KEPT_MAX ARENA_CACHE_BLOCKS_MAX
#endif

static uint8_t *block_start(struct arena_block *block)
{
    return (uint8_t *)(block + 1);
}

static struct arena_block *take_block(struct arena *arena, size_t bytes)
{
    const size_t standard = ARENA_BLOCK_BYTES - sizeof(struct arena_block);
    struct arena_block *block;

    if (bytes <= standard) {
        if (arena->cache != NULL && arena->cache->free != NULL) {
            block = arena->cache->free;
            arena->cache->free = block->next;
            arena->cache->count--;
            return block;
        }
        bytes = standard;
    }
    block = malloc(sizeof(*block) + bytes);
    if (block != NULL)
        block->bytes = bytes;
    return block;
}

void arena_init(struct arena *arena, struct arena_cache *cache)
{
    *arena = (struct arena){.cache = cache};
}

void *arena_alloc(struct arena *arena, size_t bytes)
{
    struct arena_block *block;
    void *result;

    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = (bytes + 7) & ~(size_t)7;
    if (arena->at != NULL && bytes <= (size_t)(arena->end - arena->at)) {
        result = arena->at;
        arena->at += bytes;
        return result;
    }
    block = take_block(arena, bytes);
    if (block == NULL)
        return NULL;
    block->next = arena->blocks;
    arena->blocks = block;
    result = block_start(block);
    /* The rest of the block with more room left stays the one that is filled. */
    if (arena->at == NULL || block->bytes - bytes >= (size_t)(arena->end - arena->at)) {
        arena->at = block_start(block) + bytes;
        arena->end = block_start(block) + block->bytes;
    }
    return result;
}

void *arena_zalloc(struct arena *arena, size_t bytes)
{
    void *result = arena_alloc(arena, bytes);

    if (result != NULL)
        memset(result, 0, bytes);
    return result;
}

struct slice arena_copy(struct arena *arena, struct slice text)
{
    char *copy = arena_alloc(arena, text.length + 1);

    if (copy == NULL)
        return (struct slice){NULL, 0};
    if (text.length > 0)
        memcpy(copy, text.at, text.length);
    copy[text.length] = '\0';
    return (struct slice){copy, text.length};
}

void arena_release(struct arena *arena)
{
    struct arena_cache *cache = arena->cache;
    struct arena_block *next;

    for (struct arena_block *block = arena->blocks; block != NULL; block = next) {
        next = block->next;
        if (cache != NULL && cache->count + 1 <= KEPT_MAX &&
            block->bytes == ARENA_BLOCK_BYTES - sizeof(*block)) {
            block->next = cache->free;
            cache->free = block;
            cache->count++;
        } else {
            free(block);
        }
    }
    arena_init(arena, cache);
}

void arena_cache_release(struct arena_cache *cache)
{
    struct arena_block *next;

    for (struct arena_block *block = cache->free; block != NULL; block = next) {
        next = block->next;
        free(block);
    }
    *cache = (struct arena_cache){0};
}
