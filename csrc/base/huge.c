/* Mapping at a multiple of a huge page, and asking the kernel for huge ones: see huge.h. */
#define _GNU_SOURCE
#include "base/huge.h"

#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

void *huge_map(int fd, uint64_t size, int protection, int flags)
{
    uint8_t *room, *at;
    void *memory;

    if (size < HUGE_PAGE)
        return mmap(0, size, protection, flags, fd, 0);
    size = (size + 4095) & ~UINT64_C(4095);
    room = mmap(0, size + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED)
        return room;
    at = (uint8_t *)(((uintptr_t)room + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
    memory = mmap(at, size, protection, flags | MAP_FIXED, fd, 0);
    if (memory == MAP_FAILED) {
        munmap(room, size + HUGE_PAGE);
        return memory;
    }
    if (at > room)
        munmap(room, (uint64_t)(at - room));
    if (at < room + HUGE_PAGE)
        munmap(at + size, (uint64_t)(room + HUGE_PAGE - at));
    return memory;
}

void huge_collapse(uint8_t *memory, uint64_t size)
{
    for (uint64_t at = 0; at < size; at += HUGE_PAGE) {
        (void)*(volatile uint8_t *)(memory + at); /* of a hole nothing would be made */
        madvise(memory + at, HUGE_PAGE, MADV_COLLAPSE);
    }
}
