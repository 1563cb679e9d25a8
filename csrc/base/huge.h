/* Memory that is read at random, in huge pages: with small ones every read would miss the TLB too.
 *
 * Called by snapshot/view.c for images and by worker/stats.c for counters. Never fails for want of
 * huge pages: kernels before 6.1 and those without them leave small ones. */
#ifndef EDGE_BASE_HUGE_H
#define EDGE_BASE_HUGE_H

#include <stdint.h>

#define HUGE_PAGE (UINT64_C(2) << 20)

/* mmap of a whole file at a multiple of a huge page. MAP_FAILED with errno on errors. */
void *huge_map(int fd, uint64_t size, int protection, int flags);
/* From and size: multiples of HUGE_PAGE in what huge_map() gave. Takes about 1 ms for a page. */
void huge_collapse(uint8_t *memory, uint64_t size);

#endif
