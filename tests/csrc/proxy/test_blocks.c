/* Buffers are bounded together: what is kept makes room, small ones pass a little longer. */
#include "proxy/blocks.c"

#include "tap.h"

int main(void)
{
    struct blocks blocks = {.bytes_max = 4 * (sizeof(struct block) + BLOCK_LARGE)};
    struct block *held[6];
    for (int i = 0; i < 4; i++)
        held[i] = blocks_take(&blocks, BLOCK_LARGE);
    OK(held[0] && held[3], "up to the bound");
    OK(!blocks_take(&blocks, BLOCK_LARGE), "and not beyond it");
    OK(!blocks_take(&blocks, BLOCK_MEDIUM), "nor a medium one");
    held[4] = blocks_take(&blocks, 100);
    OK(held[4] != 0, "but a small one");
    int small = 0;
    while ((held[5] = blocks_take(&blocks, 100)) && ++small < 1000)
        blocks_give(&blocks, held[5]);
    OK(small == 1000, "which is used again and again");
    blocks_give(&blocks, held[5]);
    blocks_give(&blocks, held[0]);
    blocks_give(&blocks, held[1]);
    IS(blocks.count[2], 2, "two are kept");
    held[0] = blocks_take(&blocks, BLOCK_MEDIUM);
    OK(held[0] != 0, "one of them makes room for another size");
    held[1] = blocks_take(&blocks, 100000);
    OK(held[1] != 0 && held[1]->bytes == 100000, "or for a single large one");
    for (int i = 0; i < 5; i++)
        blocks_give(&blocks, held[i]);
    blocks_release(&blocks);
    IS(blocks.bytes, 0, "all of it is given back");
    return tap_done();
}
