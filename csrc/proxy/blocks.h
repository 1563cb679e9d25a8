/* Buffers of a worker, kept for reuse: 4, 16 and 64 KiB.
 *
 * Taken by codecs for heads, bodies and output, given back when the connection idles. One thread
 * only; a connection that waits owns none. All together are bounded, so that a memory limit of the
 * process is met here, where it is an answer with 503, and not by the kernel's killer. */
#ifndef EDGE_PROXY_BLOCKS_H
#define EDGE_PROXY_BLOCKS_H

#include <stddef.h>
#include <stdint.h>

#define BLOCK_CLASSES 3
#define BLOCK_SMALL 4096
#define BLOCK_MEDIUM 16640 /* 16 KiB and room for framing */
#define BLOCK_LARGE 65792  /* 64 KiB and the same */

struct block {
    struct block *next;
    size_t bytes; /* usable */
    uint8_t data[];
};

struct blocks {
    struct block *free[BLOCK_CLASSES];
    uint32_t count[BLOCK_CLASSES];
    size_t bytes, bytes_max; /* of all, in use or kept; bytes_max 0: no bound */
};

/* The smallest that holds so many bytes (larger ones come from the heap); 0: no memory. */
struct block *blocks_take(struct blocks *blocks, size_t bytes);
void blocks_give(struct blocks *blocks, struct block *block); /* 0 is fine */
void blocks_release(struct blocks *blocks);

#endif
