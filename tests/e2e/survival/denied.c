/*
 * The denied source of the survival program: connects all the time from an address that an
 * EdgePolicy denies. Each attempt has a second; whatever comes back in it, acceptance, refusal or
 * reset, has passed XDP. Started by traffic.py in a client's namespace; prints one JSON line after
 * SIGTERM.
 *
 * usage: denied ADDRESS PORT SOURCE RATE
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define OPEN_MAX 4096
#define SECOND 1000000000ull

static struct pollfd open_fds[OPEN_MAX];
static uint64_t since[OPEN_MAX];
static volatile sig_atomic_t stopping;

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void stop(int number)
{
    (void)number;
    stopping = 1;
}

int main(int argc, char **argv)
{
    struct sockaddr_in to = {.sin_family = AF_INET}, from = {.sin_family = AF_INET};
    if (argc != 5 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1 ||
        inet_pton(AF_INET, argv[3], &from.sin_addr) != 1) {
        fprintf(stderr, "usage: denied ADDRESS PORT SOURCE RATE\n");
        return 2;
    }
    to.sin_port = htons((uint16_t)atoi(argv[2]));
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGTERM, stop);
    uint64_t period = (uint64_t)(1e9 / atof(argv[4])), due = now();
    uint64_t attempts = 0, accepted = 0, answered = 0, failed = 0, first = 0, last = 0;
    nfds_t count = 0;
    while (!stopping) {
        uint64_t t = now();
        for (; due <= t; due += period) {
            int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
            if (fd < 0 || count == OPEN_MAX || bind(fd, (struct sockaddr *)&from, sizeof(from)) ||
                (connect(fd, (struct sockaddr *)&to, sizeof(to)) && errno != EINPROGRESS)) {
                failed++; /* of this program, nothing that XDP did */
                if (fd >= 0)
                    close(fd);
                continue;
            }
            attempts++;
            since[count] = t;
            open_fds[count++] = (struct pollfd){.fd = fd, .events = POLLOUT};
        }
        poll(open_fds, count, 5);
        t = now();
        for (nfds_t i = 0; i < count;) {
            if (!open_fds[i].revents && t < since[i] + SECOND) {
                i++;
                continue;
            }
            if (open_fds[i].revents) {
                int error = 0;
                socklen_t size = sizeof(error);
                getsockopt(open_fds[i].fd, SOL_SOCKET, SO_ERROR, &error, &size);
                if (!error)
                    accepted++;
                else
                    answered++;
                first = first ? first : t;
                last = t;
            }
            close(open_fds[i].fd);
            count--;
            open_fds[i] = open_fds[count];
            since[i] = since[count];
        }
    }
    printf("{\"attempts\": %llu, \"accepted\": %llu, \"refused\": %llu, \"failed\": %llu, "
           "\"first\": %.6f, \"last\": %.6f}\n",
           (unsigned long long)attempts, (unsigned long long)accepted, (unsigned long long)answered,
           (unsigned long long)failed, (double)first / 1e9, (double)last / 1e9);
    return 0;
}
