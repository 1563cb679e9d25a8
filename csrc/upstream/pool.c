/* Idle connections in buckets by endpoint, last in first out: the few that are busy stay warm and
 * the rest times out. Called by proxy/h1_upstream.c. Never allocates, never closes. */
#include "upstream/pool.h"

#include <string.h>

static struct list *bucket(struct pool *pool, const struct pool_key *key)
{
    uint64_t words[2];
    memcpy(words, key->address, sizeof words);
    uint64_t hash = words[0] ^ words[1] ^ ((uint64_t)key->slot << 20) ^
                    ((uint64_t)key->generation << 40) ^ key->port;
    hash *= 0x9e3779b97f4a7c15u;
    return &pool->buckets[hash >> 54];
}

void pool_init(struct pool *pool)
{
    for (int i = 0; i < POOL_BUCKETS; i++)
        list_init(&pool->buckets[i]);
    pool->idle = 0;
}

bool pool_put(struct pool *pool, struct pool_entry *entry)
{
    if (pool->idle >= POOL_IDLE_MAX)
        return false;
    pool->idle++;
    list_push_front(bucket(pool, &entry->key), &entry->link);
    return true;
}

struct pool_entry *pool_take(struct pool *pool, const struct pool_key *key)
{
    struct list *head = bucket(pool, key);
    LIST_EACH(at, after, head)
    {
        struct pool_entry *entry = LIST_OWNER(at, struct pool_entry, link);
        if (memcmp(&entry->key, key, sizeof *key) != 0)
            continue;
        pool_remove(pool, entry);
        return entry;
    }
    return 0;
}

void pool_remove(struct pool *pool, struct pool_entry *entry)
{
    list_remove(&entry->link);
    pool->idle--;
}
