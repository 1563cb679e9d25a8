/*
 * The load generator of the proxy benchmarks: N kept connections, one request in flight on each,
 * as fast as answered (RATE 0) or at a fixed rate (latency from the moment a request was due).
 * It reads the processor time of the given processes at both ends of its own window, so that no
 * other program wakes in between. Started by bench/proxy/http1.py and the end-to-end stories;
 * prints one JSON line. It never retries: an odd answer or a closed connection is counted and ends
 * the connection.
 *
 * usage: load ADDRESS PORT CONNECTIONS SECONDS RATE HOST PATH [PID...]
 * HOST may be @FILE: lines "HOST PATH", each request is for the next of them; PATH is not used
 * then.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <signal.h>
#include <sys/prctl.h>

#include "client.h"

#define CONNECTIONS_MAX 1024
#define SAMPLES_MAX (4 << 20)
#define WARM_NS 300000000ull

static struct connection connections[CONNECTIONS_MAX];
static int idle[CONNECTIONS_MAX];
static int idle_count;
static struct lines lines; /* of @FILE */
static uint32_t *samples;
static uint64_t done;

/* Processor time of all threads of a process, in nanoseconds. */
static uint64_t spent(const char *pid)
{
    char path[320];
    snprintf(path, sizeof(path), "/proc/%s/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        return 0;
    uint64_t sum = 0;
    for (struct dirent *task; (task = readdir(tasks));) {
        unsigned long long value;
        snprintf(path, sizeof(path), "/proc/%.20s/task/%.20s/schedstat", pid, task->d_name);
        FILE *file = task->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (!file)
            continue;
        if (fscanf(file, "%llu", &value) == 1)
            sum += value;
        fclose(file);
    }
    closedir(tasks);
    return sum;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
    if (argc < 8) {
        fprintf(stderr, "usage: load ADDRESS PORT CONNECTIONS SECONDS RATE HOST PATH [PID...]\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int count = atoi(argv[3]), pids = argc - 8;
    double seconds = atof(argv[4]);
    uint64_t step = atof(argv[5]) > 0 ? (uint64_t)(1e9 / atof(argv[5])) : 0;
    if (count < 1 || count > CONNECTIONS_MAX || pids > 16)
        return 2;
    alarm((unsigned)seconds + 30);
    if (argv[6][0] == '@')
        read_lines(&lines, argv[6] + 1);
    else
        compose(argv[6], (int)strlen(argv[6]), argv[7], (int)strlen(argv[7]));
    samples = malloc(SAMPLES_MAX * sizeof(*samples));
    int loop = epoll_create1(0);
    for (int i = 0; i < count; i++) {
        open_connection(&connections[i], argv[1], argv[2], loop);
        idle[idle_count++] = i;
    }

    uint64_t start = now() + WARM_NS, stop = start + (uint64_t)(seconds * 1e9);
    uint64_t next = now(), began = 0, ended = 0, before[16] = {0}, after[16] = {0}, late = 0;
    size_t sampled = 0;
    for (;;) {
        uint64_t t = now();
        if (!began && t >= start) {
            began = t;
            done = 0;
            for (int i = 0; i < pids; i++)
                before[i] = spent(argv[8 + i]);
        }
        if (began && !ended && t >= stop) {
            ended = t;
            for (int i = 0; i < pids; i++)
                after[i] = spent(argv[8 + i]);
        }
        /* After the window: wait for what is still in flight, at most two seconds. */
        if (ended && (closed + (uint64_t)idle_count >= (uint64_t)count || t > stop + 2000000000ull))
            break;
        while (!ended && idle_count > 0 && (!step || next <= t)) {
            struct connection *c = &connections[idle[--idle_count]];
            if (c->fd >= 0)
                ask(c, &lines, step ? next : t);
            next += step;
        }
        if (step && next + 1000000000ull < t) {
            late += (t - next) / step; /* no connection free for a second: say so, do not burst */
            next = t;
        }
        struct timespec wait = {.tv_sec = 1};
        if (step && !ended && idle_count > 0) {
            uint64_t here = now(); /* read once: a difference below zero would wait for ever */
            uint64_t left = next > here ? next - here : 0;
            wait = (struct timespec){.tv_sec = (time_t)(left / 1000000000ull),
                                     .tv_nsec = (long)(left % 1000000000ull)};
        }
        struct epoll_event events[EVENTS];
        int ready = epoll_pwait2(loop, events, EVENTS, &wait, NULL);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->fd < 0 || !take(c))
                continue;
            c->busy = 0;
            idle[idle_count++] = (int)(c - connections);
            if (began && !ended) {
                done++;
                if (sampled < SAMPLES_MAX)
                    samples[sampled++] = (uint32_t)((now() - c->due) / 1000);
            }
        }
        if (closed >= (uint64_t)count)
            break;
    }
    uint64_t unanswered = 0;
    for (int i = 0; i < count; i++)
        unanswered += (uint64_t)(connections[i].fd >= 0 && connections[i].busy);
    if (!ended)
        ended = now();
    qsort(samples, sampled, sizeof(*samples), compare);
    printf("{\"requests\": %llu, \"errors\": %llu, \"closed\": %llu, \"unanswered\": %llu, "
           "\"late\": %llu, \"seconds\": %.4f, \"p50_us\": %u, \"p99_us\": %u, \"max_us\": %u, "
           "\"cpu_us\": [",
           (unsigned long long)done, (unsigned long long)errors, (unsigned long long)closed,
           (unsigned long long)unanswered, (unsigned long long)late, (double)(ended - began) / 1e9,
           sampled ? samples[sampled / 2] : 0, sampled ? samples[sampled * 99 / 100] : 0,
           sampled ? samples[sampled - 1] : 0);
    for (int i = 0; i < pids; i++)
        printf("%s%.1f", i ? ", " : "", (double)(after[i] - before[i]) / 1000);
    printf("]}\n");
    return 0;
}
