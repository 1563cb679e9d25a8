/* Mapping and settling the shared counters, and who owns a lane.
 *
 * An owner holds a record lock on its lane's bytes: it goes with the process whatever ends it, and
 * is seen from other PID namespaces, where a process id says nothing. A lane is settled only by who
 * holds its lock, so two that find the same dead one do not count its exchanges twice. */
#define _GNU_SOURCE
#include "worker/stats.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/huge.h"

#define CLAIM_TRIES 200 /* of 10 ms: a killed owner is gone when its exit is through */

int stats_map(struct stats *stats, int fd, struct edge_error *err)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        return error_system(err, errno, "fstat of the stats memory");
    if ((uint64_t)status.st_size < sizeof(struct edge_stats_header))
        return error_set(err, EDGE_ERR_TRUNCATED, "the stats memory has no header");
    void *bytes =
        huge_map(fd, (uint64_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE);
    if (bytes == MAP_FAILED)
        return error_system(err, errno, "mmap of the stats memory");
    stats->bytes = bytes;
    stats->size = (uint64_t)status.st_size;
    stats->header = bytes;
    stats->fd = fd;
    const struct edge_stats_header *header = stats->header;
    if (header->magic != EDGE_STATS_MAGIC || header->layout != EDGE_STATS_LAYOUT ||
        header->lane_count == 0 || header->lane_count > 4096 || header->total_bytes > stats->size ||
        header->total_bytes != edge_stats_bytes(header->lane_count)) {
        stats_unmap(stats);
        return error_set(err, EDGE_ERR_ABI, "the stats memory was laid out by another version");
    }
    return EDGE_OK;
}

void stats_unmap(struct stats *stats)
{
    if (stats->bytes)
        munmap(stats->bytes, stats->size);
    stats->bytes = 0;
}

struct edge_lane *stats_lane(const struct stats *stats, uint32_t lane)
{
    return (struct edge_lane *)(void *)(stats->bytes + stats->header->lanes_offset) + lane;
}

struct edge_route_cell *stats_route_cells(const struct stats *stats, uint32_t lane)
{
    return (struct edge_route_cell *)(void *)(stats->bytes + stats->header->route_cells_offset) +
           (uint64_t)lane * EDGE_ROUTE_SLOTS;
}

struct edge_upstream_cell *stats_upstream_cells(const struct stats *stats, uint32_t lane)
{
    return (struct edge_upstream_cell *)(void *)(stats->bytes +
                                                 stats->header->upstream_cells_offset) +
           (uint64_t)lane * EDGE_UPSTREAM_SLOTS;
}

void stats_gather(const struct stats *stats, uint32_t lane, uint32_t slots)
{
    uint8_t *cells = (uint8_t *)stats_route_cells(stats, lane);
    uint64_t start = (uint64_t)(cells - stats->bytes);
    uint64_t end = start + slots * sizeof(struct edge_route_cell) + HUGE_PAGE / 2;

    start -= start % HUGE_PAGE;
    end -= end % HUGE_PAGE;
    if (start < end && end <= stats->size)
        huge_collapse(stats->bytes + start, end - start);
}

/* Only cells that somebody wrote: reading a hole would give it memory. */
static void clear_cells(const struct stats *stats, uint32_t lane)
{
    struct edge_upstream_cell *cells = stats_upstream_cells(stats, lane);
    off_t start = (uint8_t *)cells - stats->bytes;
    off_t end = start + (off_t)(EDGE_UPSTREAM_SLOTS * sizeof *cells);
    for (off_t at = start; at < end;) {
        off_t data = lseek(stats->fd, at, SEEK_DATA);
        if (data < 0 || data >= end)
            return;
        off_t hole = lseek(stats->fd, data, SEEK_HOLE);
        if (hole < 0 || hole > end)
            hole = end;
        uint64_t first = data > start ? (uint64_t)(data - start) / sizeof *cells : 0;
        for (uint64_t i = first; i < EDGE_UPSTREAM_SLOTS; i++) {
            if (start + (off_t)(i * sizeof *cells) >= hole)
                break;
            cells[i].in_flight = 0;
        }
        at = hole;
    }
}

static void settle(const struct stats *stats, uint32_t index)
{
    struct edge_lane *lane = stats_lane(stats, index);
    uint64_t ended = 0;
    for (int i = 0; i < EDGE_OUTCOME_COUNT; i++)
        ended += lane->outcomes[i];
    uint64_t lost = lane->outcomes[EDGE_OUTCOME_LOST] + lane->requests - ended;
    __atomic_store_n(&lane->outcomes[EDGE_OUTCOME_LOST], lost, __ATOMIC_RELAXED);
    __atomic_store_n(&lane->in_flight, 0, __ATOMIC_RELAXED);
    lane->connections_open = 0;
    lane->tunnels = 0;
    lane->pid = 0;
    clear_cells(stats, index);
}

/* 0, or -errno; -EAGAIN: its owner lives. */
static int lock(const struct stats *stats, uint32_t index, short type)
{
    struct flock range = {.l_type = type,
                          .l_whence = SEEK_SET,
                          .l_start = (uint8_t *)stats_lane(stats, index) - stats->bytes,
                          .l_len = sizeof(struct edge_lane)};
    if (fcntl(stats->fd, F_SETLK, &range) == 0)
        return 0;
    return errno == EACCES ? -EAGAIN : -errno;
}

int stats_claim(const struct stats *stats, uint32_t first, uint32_t count, struct edge_error *err)
{
    const struct timespec pause = {.tv_nsec = 10000000};
    for (uint32_t i = first; i < first + count; i++) {
        int rc = lock(stats, i, F_WRLCK);
        for (int tries = 0; rc == -EAGAIN && tries < CLAIM_TRIES; tries++) {
            nanosleep(&pause, 0);
            rc = lock(stats, i, F_WRLCK);
        }
        if (rc == -EAGAIN)
            return error_set(err, EDGE_ERR_INVALID, "lane %u has an owner that lives", i);
        if (rc < 0)
            return error_system(err, -rc, "locking a lane");
        settle(stats, i);
        struct edge_lane *lane = stats_lane(stats, i);
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        lane->loop_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
        lane->version = 0;
        lane->pid = (uint64_t)getpid();
    }
    return EDGE_OK;
}

void stats_settle_dead(const struct stats *stats, uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < stats->header->lane_count; i++) {
        bool ours = i >= first && i < first + count;
        uint64_t pid = __atomic_load_n(&stats_lane(stats, i)->pid, __ATOMIC_RELAXED);
        if (ours || pid == 0 || lock(stats, i, F_WRLCK) < 0)
            continue;
        if (stats_lane(stats, i)->pid != 0)
            settle(stats, i);
        lock(stats, i, F_UNLCK);
    }
}

void stats_leave(const struct stats *stats, uint32_t first, uint32_t count)
{
    for (uint32_t i = first; i < first + count; i++) {
        settle(stats, i);
        lock(stats, i, F_UNLCK);
    }
}
