/* The arena: alignment, large pieces, blocks reused through the cache. */
#include "base/arena.c"

#include "tap.h"

int main(void)
{
    struct arena_cache cache = {0};
    struct arena arena;
    uint8_t *first, *second, *large;
    struct slice copy;

    arena_init(&arena, &cache);
    arena_release(&arena);
    IS(cache.count, 0, "an arena that was not used holds nothing");
    first = arena_alloc(&arena, 3);
    second = arena_alloc(&arena, 5);
    IS((uintptr_t)second % 8, 0, "aligned");
    IS(second - first, 8, "one behind the other");
    large = arena_alloc(&arena, 100000);
    memset(large, 1, 100000);
    IS((uint8_t *)arena_alloc(&arena, 8) - second, 8, "a large piece does not end the small block");
    copy = arena_copy(&arena, SLICE("hello"));
    IS_TEXT(copy.at, copy.length, "hello", "copied");
    IS(copy.at[5], 0, "with a NUL behind");
    for (int i = 0; i < 1000; i++)
        memset(arena_zalloc(&arena, 100), 2, 100);
    OK(arena_alloc(&arena, SIZE_MAX) == NULL, "too much is no memory");
    arena_release(&arena);
    OK(cache.count > 10 && cache.count <= ARENA_CACHE_BLOCKS_MAX, "%u blocks kept", cache.count);
    for (uint32_t before = cache.count; before > 0; before = 0) {
        arena_alloc(&arena, 2000);
        IS(cache.count, before - 1, "a block from the cache");
        IS(((uint8_t *)arena_zalloc(&arena, 1000))[999], 0, "cleared when asked for");
    }
    arena_release(&arena);
    arena_cache_release(&cache);
    IS(cache.count, 0, "cache released");
    arena_init(&arena, NULL);
    OK(arena_alloc(&arena, 10) != NULL, "without a cache");
    arena_release(&arena);
    return tap_done();
}
