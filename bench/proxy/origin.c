/*
 * The origin of the proxy benchmarks: answers every request head on a kept connection with the same
 * bytes. One thread, epoll. Started by bench/proxy/http1.py; ends with its parent or after its
 * bound. It never reads request bodies and never parses more of a head than its end.
 *
 * usage: origin ADDRESS PORT BODY_BYTES SECONDS_MAX
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define DESCRIPTORS_MAX 4096
#define EVENTS 64

/* How much of "\r\n\r\n" the connection has shown so far. */
static unsigned char matched[DESCRIPTORS_MAX];
static char *answer;
static size_t answer_bytes;

static int serve(int fd)
{
    static const char end[] = "\r\n\r\n";
    char data[16384];
    ssize_t got = recv(fd, data, sizeof(data), 0);
    if (got < 0 && errno == EAGAIN)
        return 0;
    if (got <= 0)
        return -1;
    int heads = 0;
    for (ssize_t i = 0; i < got; i++) {
        if (data[i] == end[matched[fd]])
            matched[fd]++;
        else
            matched[fd] = data[i] == '\r';
        if (matched[fd] == 4) {
            matched[fd] = 0;
            heads++;
        }
    }
    for (; heads > 0; heads--)
        if (send(fd, answer, answer_bytes, MSG_NOSIGNAL) != (ssize_t)answer_bytes)
            return -1;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: origin ADDRESS PORT BODY_BYTES SECONDS_MAX\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm((unsigned)atoi(argv[4]));
    size_t body = (size_t)atol(argv[3]);
    answer = malloc(256 + body);
    int head = snprintf(answer, 256,
                        "HTTP/1.1 200 OK\r\nServer: origin\r\nContent-Type: text/plain\r\n"
                        "Content-Length: %zu\r\n\r\n",
                        body);
    memset(answer + head, 'x', body);
    answer_bytes = (size_t)head + body;

    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &address.sin_addr) != 1)
        return 2;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 1024)) {
        perror("origin");
        return 1;
    }
    int loop = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(loop, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                if (serve(fd))
                    close(fd);
                continue;
            }
            int accepted = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
            if (accepted < 0 || accepted >= DESCRIPTORS_MAX) {
                if (accepted >= 0)
                    close(accepted);
                continue;
            }
            setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
            matched[accepted] = 0;
            event = (struct epoll_event){.events = EPOLLIN, .data.fd = accepted};
            epoll_ctl(loop, EPOLL_CTL_ADD, accepted, &event);
        }
    }
}
