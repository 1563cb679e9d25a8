/* Free lists of buffers by size. Called by the codecs of one worker. Never zeroes, never shares. */
#include "proxy/blocks.h"

#include <stdlib.h>

static const size_t SIZES[BLOCK_CLASSES] = {BLOCK_SMALL, BLOCK_MEDIUM, BLOCK_LARGE};
#ifdef EDGE_NO_REUSE /* a sanitizer sees a use after the end only when it was really freed */
static const uint32_t KEPT[BLOCK_CLASSES];
#else
/* What stays for reuse: at most 4 + 8 + 4 MiB a worker. */
static const uint32_t KEPT[BLOCK_CLASSES] = {1024, 512, 64};
#endif

struct block *blocks_take(struct blocks *blocks, size_t bytes)
{
    int class = 0;
    while (class < BLOCK_CLASSES && SIZES[class] < bytes)
        class ++;
    if (class < BLOCK_CLASSES) {
        struct block *block = blocks->free[class];
        if (block) {
            blocks->free[class] = block->next;
            blocks->count[class]--;
            return block;
        }
        bytes = SIZES[class];
    }
    struct block *block = malloc(sizeof *block + bytes);
    if (block)
        block->bytes = bytes;
    return block;
}

void blocks_give(struct blocks *blocks, struct block *block)
{
    if (!block)
        return;
    for (int class = 0; class < BLOCK_CLASSES; class ++) {
        if (SIZES[class] != block->bytes || blocks->count[class] >= KEPT[class])
            continue;
        block->next = blocks->free[class];
        blocks->free[class] = block;
        blocks->count[class]++;
        return;
    }
    free(block);
}

void blocks_release(struct blocks *blocks)
{
    for (int class = 0; class < BLOCK_CLASSES; class ++) {
        while (blocks->free[class]) {
            struct block *block = blocks->free[class];
            blocks->free[class] = block->next;
            free(block);
        }
        blocks->count[class] = 0;
    }
}
