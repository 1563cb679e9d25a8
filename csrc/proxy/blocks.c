/* Free lists of buffers by size. Called by the codecs of one worker. Never zeroes, never shares. */
#include "proxy/blocks.h"

#include <stdbool.h>
#include <stdlib.h>

static const size_t SIZES[BLOCK_CLASSES] = {BLOCK_SMALL, BLOCK_MEDIUM, BLOCK_LARGE};
#ifdef EDGE_NO_REUSE /* a sanitizer sees a use after the end only when it was really freed */
static const uint32_t KEPT[BLOCK_CLASSES];
#else
/* What stays for reuse: at most 4 + 8 + 4 MiB a worker. */
static const uint32_t KEPT[BLOCK_CLASSES] = {1024, 512, 64};
#endif

static void release(struct blocks *blocks, struct block *block)
{
    blocks->bytes -= sizeof *block + block->bytes;
    free(block);
}

/* What is only kept makes room for what is needed. Small ones may go beyond the bound by an eighth:
 * heads and answers of our own still pass when bodies have used it up. */
static bool make_room(struct blocks *blocks, size_t bytes)
{
    size_t most = blocks->bytes_max;
    if (most == 0)
        return true;
    if (bytes <= sizeof(struct block) + BLOCK_SMALL)
        most += most / 8;
    for (int class = BLOCK_CLASSES - 1; class >= 0; class --) {
        while (blocks->free[class] && blocks->bytes + bytes > most) {
            struct block *block = blocks->free[class];
            blocks->free[class] = block->next;
            blocks->count[class]--;
            release(blocks, block);
        }
    }
    return blocks->bytes + bytes <= most;
}

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
    if (!make_room(blocks, sizeof(struct block) + bytes))
        return 0;
    struct block *block = malloc(sizeof *block + bytes);
    if (!block) {
        blocks_release(blocks);
        block = malloc(sizeof *block + bytes);
    }
    if (!block)
        return 0;
    block->bytes = bytes;
    blocks->bytes += sizeof *block + bytes;
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
    release(blocks, block);
}

void blocks_release(struct blocks *blocks)
{
    for (int class = 0; class < BLOCK_CLASSES; class ++) {
        while (blocks->free[class]) {
            struct block *block = blocks->free[class];
            blocks->free[class] = block->next;
            release(blocks, block);
        }
        blocks->count[class] = 0;
    }
}
