/*
 * What the client of the survival program has seen, and its one JSON line: answers by kind, the
 * times without any answer, refused connections, and each failure. Included by client.c alone. It
 * keeps no rates and no connection; times are CLOCK_MONOTONIC, so that other programs' moments
 * compare.
 */
#ifndef SURVIVAL_RECORD_H
#define SURVIVAL_RECORD_H

#include <stdint.h>
#include <stdio.h>
#include <time.h>

#define EVENTS_MAX 20000
#define GAPS_MAX 4096
#define GAP_NS 20000000ull
#define SECOND 1000000000ull

enum kind { KEPT, FRESH, ECHO, LOAD, TUNNEL, KINDS };
static const char *const kind_names[KINDS] = {"kept", "fresh", "echo", "download", "tunnel"};

struct event {
    enum kind kind;
    const char *what;
    int status;
    uint16_t port;
    int in_flight;
    uint64_t at, opened, sent, answers, bytes;
};

struct gap {
    uint64_t from, to, lag;
};

static struct event events[EVENTS_MAX];
static struct gap gaps[GAPS_MAX];
static uint64_t event_count, gap_count, refused, refused_first, refused_last;
static uint64_t asked[KINDS], answered[KINDS], late, idle_closed, slowest;
static uint64_t last_answer, lag, lag_most, tunnel_bytes;

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* No answer since the last one until `t`: kept when it is long. */
static void record_gap(uint64_t t)
{
    if (last_answer && t > last_answer + GAP_NS && gap_count < GAPS_MAX)
        gaps[gap_count++] = (struct gap){last_answer, t, lag};
}

static void record_answer(enum kind kind, uint64_t sent, uint64_t t)
{
    record_gap(t);
    last_answer = t;
    lag = 0;
    if (t - sent > slowest)
        slowest = t - sent;
    answered[kind]++;
}

static void record_refusal(uint64_t t)
{
    refused++;
    refused_first = refused_first ? refused_first : t;
    refused_last = t;
}

/* This program itself did not run. */
static void record_lag(uint64_t ns)
{
    lag += ns;
    lag_most = ns > lag_most ? ns : lag_most;
}

static void print_kinds(const char *name, const uint64_t *counts)
{
    printf("\"%s\": {", name);
    for (int k = 0; k < KINDS; k++)
        printf("%s\"%s\": %ju", k ? ", " : "", kind_names[k], counts[k]);
    printf("}, ");
}

static double seconds(uint64_t ns)
{
    return (double)ns / 1e9;
}

static void print_all(uint64_t began)
{
    printf("{\"began\": %.6f, \"ended\": %.6f, \"refused\": %ju, \"refused_first\": %.6f, "
           "\"refused_last\": %.6f, \"late\": %ju, \"idle_closed\": %ju, \"slowest_ms\": %.1f, ",
           seconds(began), seconds(now()), refused, seconds(refused_first), seconds(refused_last),
           late, idle_closed, seconds(slowest) * 1e3);
    printf("\"lag_ms\": %.1f, \"tunnel_bytes\": %ju, ", seconds(lag_most) * 1e3, tunnel_bytes);
    print_kinds("asked", asked);
    print_kinds("answered", answered);
    printf("\"gaps\": [");
    for (uint64_t i = 0; i < gap_count; i++)
        printf("%s[%.6f, %.6f, %.6f]", i ? ", " : "", seconds(gaps[i].from), seconds(gaps[i].to),
               seconds(gaps[i].lag));
    printf("], \"event_count\": %ju, \"events\": [", event_count);
    for (uint64_t i = 0; i < event_count && i < EVENTS_MAX; i++) {
        const struct event *e = &events[i];
        printf("%s{\"kind\": \"%s\", \"what\": \"%s\", \"status\": %d, \"port\": %u, "
               "\"in_flight\": %d, ",
               i ? ", " : "", kind_names[e->kind], e->what, e->status, e->port, e->in_flight);
        printf("\"at\": %.6f, \"opened\": %.6f, \"sent\": %.6f, \"answers\": %ju, \"bytes\": %ju}",
               seconds(e->at), seconds(e->opened), seconds(e->sent), e->answers, e->bytes);
    }
    printf("]}\n");
}

#endif
