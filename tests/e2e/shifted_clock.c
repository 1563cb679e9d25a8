/* Preloaded into processes by tests: their wall clock is wrong by the seconds in a shared page.
 *
 * The page is mapped when the library is loaded: later a filter of system calls, or another root,
 * may be in the way. It is the file that EDGE_CLOCK_PAGE names, or that this was compiled with: for
 * what /etc/ld.so.preload preloads has perhaps no environment. Without one nothing is shifted, and
 * no other clock ever is: not the kernel's, which stamps files and ends waits. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#ifndef CLOCK_PAGE
#define CLOCK_PAGE ""
#endif

static volatile const int64_t *shift;

__attribute__((constructor)) static void map_page(void)
{
    const char *named = getenv("EDGE_CLOCK_PAGE");
    int before = errno;
    int fd = open(named ? named : CLOCK_PAGE, O_RDONLY | O_CLOEXEC);
    struct stat about;

    if (fd >= 0) {
        if (fstat(fd, &about) == 0 && about.st_size >= (off_t)sizeof *shift) {
            void *page = mmap(0, sizeof *shift, PROT_READ, MAP_SHARED, fd, 0);
            if (page != MAP_FAILED)
                shift = page;
        }
        close(fd);
    }
    errno = before;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int rc = (int)syscall(SYS_clock_gettime, clock, now);
    if (rc == 0 && shift && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *shift;
    return rc;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    int rc = (int)syscall(SYS_gettimeofday, now, zone);
    if (rc == 0 && shift)
        now->tv_sec += *shift;
    return rc;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}
