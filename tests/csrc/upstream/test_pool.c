/* The pool: the newest connection of the right key, counted, limited. */
#include "upstream/pool.c"

#include "tap.h"

int main(void)
{
    static struct pool pool;
    struct pool_entry entries[3];
    struct pool_key key;

    memset(&key, 0, sizeof key);
    memset(entries, 0, sizeof entries);
    key.slot = 1;
    key.generation = 1;
    key.port = 80;
    pool_init(&pool);
    for (int i = 0; i < 3; i++) {
        entries[i].key = key;
        pool_put(&pool, &entries[i]);
    }
    OK(pool_take(&pool, &key) == &entries[2], "the newest first");
    pool_remove(&pool, &entries[1]);
    IS(pool.idle, 1, "one is left");
    key.generation = 2;
    OK(pool_take(&pool, &key) == 0, "another generation is another upstream");
    key.generation = 1;
    OK(pool_take(&pool, &key) == &entries[0], "the last one");
    OK(pool_take(&pool, &key) == 0, "none is left");
    pool.idle = POOL_IDLE_MAX;
    OK(!pool_put(&pool, &entries[0]), "a full pool refuses");
    return tap_done();
}
