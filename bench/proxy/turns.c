/*
 * Two addresses in turns: what a request costs at one against the other, in processor time of the
 * processes that serve both. Short turns, A B B A and again, so that whatever else the machine
 * does falls on both; between two turns nothing is in flight, so that each one's time is whole. The
 * time is that of the processes' own clocks, in nanoseconds. Started by bench/proxy/routes.py;
 * prints one JSON line. An odd answer or a closed connection ends it.
 *
 * usage: turns ADDRESS CONNECTIONS TURN_MS QUARTETS PORT_A FILE_A PORT_B FILE_B PID...
 * FILE: lines "HOST PATH", each request is for the next of them. The first eighth is not counted.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/prctl.h>

#include "client.h"

#define CONNECTIONS_MAX 256
#define PIDS_MAX 16

struct side {
    struct connection connections[CONNECTIONS_MAX];
    struct lines lines;
    int loop;
};

static struct side sides[2];
static int count;
static clockid_t clocks[PIDS_MAX];
static int clock_count;

static uint64_t spent(void)
{
    uint64_t sum = 0;

    for (int i = 0; i < clock_count; i++) {
        struct timespec t;
        if (clock_gettime(clocks[i], &t))
            exit(3);
        sum += (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
    }
    return sum;
}

/* Asks until the turn is over, then waits for what is in flight. Shape: answers. */
static uint64_t turn(struct side *side, uint64_t turn_ns)
{
    uint64_t answers = 0, stop = now() + turn_ns, last = stop + 5000000000ull;
    int busy = count;

    for (int i = 0; i < count; i++)
        ask(&side->connections[i], &side->lines, 0);
    while (busy > 0) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(side->loop, events, EVENTS, 1000);
        uint64_t here = now();
        if (here > last)
            closed++;
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->fd < 0 || !take(c))
                continue;
            answers++;
            c->busy = 0;
            if (here < stop)
                ask(c, &side->lines, 0);
            else
                busy--;
        }
        if (errors || closed) {
            fprintf(stderr, "turns: a request was not answered 200\n");
            exit(1);
        }
    }
    return answers;
}

int main(int argc, char **argv)
{
    if (argc < 10 || argc - 9 > PIDS_MAX) {
        fprintf(stderr, "usage: turns ADDRESS CONNECTIONS TURN_MS QUARTETS PORT_A FILE_A PORT_B "
                        "FILE_B PID...\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    uint64_t turn_ns = strtoull(argv[3], NULL, 10) * 1000000,
             quartets = strtoull(argv[4], NULL, 10);
    count = atoi(argv[2]);
    if (count < 1 || count > CONNECTIONS_MAX || turn_ns == 0 || quartets == 0)
        return 2;
    for (int i = 9; i < argc; i++)
        if (clock_getcpuclockid(atoi(argv[i]), &clocks[clock_count++]))
            return 3;
    for (int i = 0; i < 2; i++) {
        sides[i].loop = epoll_create1(0);
        read_lines(&sides[i].lines, argv[6 + 2 * i]);
        for (int k = 0; k < count; k++)
            open_connection(&sides[i].connections[k], argv[1], argv[5 + 2 * i], sides[i].loop);
    }
    printf("[");
    for (uint64_t i = 0, warm = quartets / 8 + 1; i < warm + quartets; i++) {
        static const int order[4] = {0, 1, 1, 0};
        uint64_t answers[2] = {0}, nanoseconds[2] = {0};
        for (int k = 0; k < 4; k++) {
            uint64_t before = spent();
            answers[order[k]] += turn(&sides[order[k]], turn_ns);
            nanoseconds[order[k]] += spent() - before;
        }
        if (i >= warm)
            printf("%s[%.1f, %.1f]", i > warm ? ", " : "",
                   (double)nanoseconds[0] / (double)answers[0],
                   (double)nanoseconds[1] / (double)answers[1]);
    }
    printf("]\n");
    return 0;
}
