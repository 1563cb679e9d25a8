/* Idle connections of one worker to endpoints, newest first.
 *
 * The codec embeds a pool_entry in its connection, puts it here when an answer ended cleanly, and
 * takes it for the next request of the same upstream slot, generation, address and port. The pool
 * never touches a socket: an idle connection's own timeout and receive tell its codec to remove
 * and close it. */
#ifndef EDGE_UPSTREAM_POOL_H
#define EDGE_UPSTREAM_POOL_H

#include "base/list.h"
#include "include/edge.h"

#define POOL_BUCKETS 1024
#define POOL_IDLE_MAX 4096 /* a worker's idle connections; over it the codec closes */

struct pool_key {
    uint8_t address[16];
    uint32_t slot;
    uint32_t generation;
    uint32_t port;
};

struct pool_entry {
    struct list link;
    struct pool_key key;
};

struct pool {
    struct list buckets[POOL_BUCKETS];
    uint32_t idle;
};

void pool_init(struct pool *pool);
/* false: the pool is full. */
bool pool_put(struct pool *pool, struct pool_entry *entry);
/* The one used last; 0: none. */
struct pool_entry *pool_take(struct pool *pool, const struct pool_key *key);
void pool_remove(struct pool *pool, struct pool_entry *entry);

#endif
