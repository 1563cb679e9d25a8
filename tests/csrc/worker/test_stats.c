/* Lanes and their owners: who lives keeps its books, who died has them closed once, by anybody.
 *
 * links: snapshot/stats.c base/error.c base/huge.c
 * marks: slow */
#define _GNU_SOURCE
#include "worker/stats.c"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "tap.h"

static int memory_of(uint32_t lanes)
{
    uint64_t size = edge_stats_bytes(lanes);
    int fd = memfd_create("stats", 0);
    OK(fd >= 0 && ftruncate(fd, (off_t)size) == 0, "a memory");
    uint8_t *bytes = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    /* Only the header is written. */
    OK(edge_stats_format(bytes, size, lanes) == EDGE_OK, "formatted");
    munmap(bytes, 4096);
    return fd;
}

/* A data plane: claims, opens three exchanges, and waits for its end. */
static pid_t start_owner(int fd, uint32_t first, uint32_t count, int *told)
{
    int pipe_fds[2];
    OK(pipe(pipe_fds) == 0, "a pipe");
    pid_t child = fork();
    if (child == 0) {
        struct stats stats;
        struct edge_error err;
        char word = stats_map(&stats, fd, &err) == EDGE_OK &&
                            stats_claim(&stats, first, count, &err) == EDGE_OK
                        ? 'y'
                        : 'n';
        struct edge_lane *lane = stats_lane(&stats, first);
        lane->requests += 5;
        lane->outcomes[EDGE_OUTCOME_OK] += 2;
        lane->in_flight += 3;
        lane->tunnels += 1;
        lane->pid = 1; /* a number that means another process here */
        if (write(pipe_fds[1], &word, 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(pipe_fds[1]);
    char word = 0;
    OK(read(pipe_fds[0], &word, 1) == 1, "the owner speaks");
    *told = word;
    close(pipe_fds[0]);
    return child;
}

static void end(pid_t child)
{
    kill(child, SIGKILL);
    waitpid(child, 0, 0);
}

static uint64_t bytes_taken(int fd)
{
    struct stat status;
    OK(fstat(fd, &status) == 0, "its size");
    return (uint64_t)status.st_blocks * 512;
}

static void gathers_cells_of_many_routes_alone(void)
{
    int fd = memory_of(2);
    struct stats stats;
    struct edge_error err;
    IS(stats_map(&stats, fd, &err), EDGE_OK, "mapped");
    struct edge_route_cell *cells = stats_route_cells(&stats, 1);
    cells[0].requests = 7;
    cells[20000].requests = 8;
    cells[131071].requests = 9;
    uint64_t before = bytes_taken(fd);
    stats_gather(&stats, 1, 100);
    IS(bytes_taken(fd), before, "few routes take what they took");
    stats_gather(&stats, 1, 131072);
    stats_gather(&stats, 1, 131072);
    OK(bytes_taken(fd) >= 3 * HUGE_PAGE, "cells of many routes are in huge pages");
    IS(cells[0].requests, 7, "the first counts on");
    IS(cells[20000].requests, 8, "one between, too");
    IS(cells[131071].requests, 9, "and the last");
    stats_gather(&stats, 0, 30000);
    IS(stats_route_cells(&stats, 0)->requests, 0, "others are empty");
    stats_unmap(&stats);
    close(fd);
}

int main(void)
{
    gathers_cells_of_many_routes_alone();
    int fd = memory_of(4), told;
    struct stats stats;
    struct edge_error err;
    IS(stats_map(&stats, fd, &err), EDGE_OK, "mapped");
    IS(stats.header->layout, 2, "as every version since the first instances laid it out");
    const struct edge_lane *first = stats_lane(&stats, 0);

    pid_t old = start_owner(fd, 0, 2, &told);
    IS(told, 'y', "it owns its lanes");
    IS(stats_claim(&stats, 2, 2, &err), EDGE_OK, "its successor owns the others");
    stats_settle_dead(&stats, 2, 2);
    IS(first->in_flight, 3, "who lives is left alone");
    IS(first->outcomes[EDGE_OUTCOME_LOST], 0, "nothing is lost");
    OK(stats_lane(&stats, 2)->loop_ns > 0, "a fresh owner is not stalled");

    end(old);
    stats_settle_dead(&stats, 2, 2);
    stats_settle_dead(&stats, 2, 2);
    IS(first->in_flight, 0, "nothing of a dead one is in flight");
    IS(first->outcomes[EDGE_OUTCOME_LOST], 3, "what was open is lost, once");
    IS(first->tunnels, 0, "no tunnel is open");
    IS(first->pid, 0, "its lanes are free");
    IS(stats_lane(&stats, 2)->pid, (uint64_t)getpid(), "ours stay ours");

    old = start_owner(fd, 0, 2, &told);
    IS(told, 'y', "free lanes are claimed");
    end(old);
    old = start_owner(fd, 0, 2, &told);
    IS(told, 'y', "and again, though nobody settled them");
    IS(first->requests, 15, "counters go on");
    IS(first->outcomes[EDGE_OUTCOME_LOST], 6, "the claim settled what was open");
    end(old);

    old = start_owner(fd, 2, 2, &told);
    IS(told, 'n', "lanes of an owner that lives cannot be claimed");
    end(old);
    stats_leave(&stats, 2, 2);
    old = start_owner(fd, 2, 2, &told);
    IS(told, 'y', "but when it has left");
    end(old);

    stats_unmap(&stats);
    close(fd);
    return tap_done();
}
