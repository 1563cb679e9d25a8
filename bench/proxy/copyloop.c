/*
 * The floor of the proxy benchmarks: pairs each accepted connection with one of its own to the
 * upstream and copies bytes, parsing nothing. Two kinds: io_uring (single issuer, deferred task
 * work) and level-triggered epoll. Started by bench/proxy/http1.py. It never writes a log or
 * limits anything: it is what the kernel alone costs.
 *
 * usage: copyloop uring|epoll ADDRESS PORT UPSTREAM_ADDRESS UPSTREAM_PORT SECONDS_MAX
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define DESCRIPTORS_MAX 4096
#define BUFFER_BYTES 16384
#define ENTRIES 1024

/* One direction of a pair: read from `from`, write to `to`; indexed by the reading descriptor. */
struct half {
    int from, to;
    int sending;
    int bytes;
    char buffer[BUFFER_BYTES];
};

static struct half *halves[DESCRIPTORS_MAX];
static struct sockaddr_in upstream;

static struct half *join(int from, int to)
{
    struct half *half = calloc(1, sizeof(*half));
    half->from = from;
    half->to = to;
    halves[from] = half;
    return half;
}

static int dial(void)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || fd >= DESCRIPTORS_MAX || connect(fd, (void *)&upstream, sizeof(upstream))) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

/* Accept one client and dial its upstream; 0 when there is a new pair. */
static int pair(int listener, int *client, int *server)
{
    int one = 1;
    *client = accept(listener, NULL, NULL);
    if (*client < 0)
        return -1;
    *server = *client < DESCRIPTORS_MAX ? dial() : -1;
    if (*server < 0) {
        close(*client);
        return -1;
    }
    setsockopt(*client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return 0;
}

static void run_epoll(int listener)
{
    int loop = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        struct epoll_event events[64];
        int count = epoll_wait(loop, events, 64, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd, client, server;
            if (fd == listener) {
                if (pair(listener, &client, &server))
                    continue;
                for (int k = 0; k < 2; k++) {
                    int side = k ? server : client;
                    fcntl(side, F_SETFL, O_NONBLOCK);
                    join(side, k ? client : server);
                    event = (struct epoll_event){.events = EPOLLIN, .data.fd = side};
                    epoll_ctl(loop, EPOLL_CTL_ADD, side, &event);
                }
                continue;
            }
            struct half *half = halves[fd];
            if (!half)
                continue; /* its other side closed it in this batch */
            ssize_t got = recv(fd, half->buffer, BUFFER_BYTES, 0);
            if (got < 0 && errno == EAGAIN)
                continue;
            ssize_t sent = 0;
            while (got > 0 && sent < got) {
                ssize_t n = send(half->to, half->buffer + sent, (size_t)(got - sent), MSG_NOSIGNAL);
                if (n >= 0)
                    sent += n;
                else if (errno == EAGAIN)
                    poll(&(struct pollfd){.fd = half->to, .events = POLLOUT}, 1, 1000);
                else
                    got = -1;
            }
            if (got <= 0) {
                int to = half->to;
                free(halves[to]);
                free(half);
                halves[to] = halves[fd] = NULL;
                close(to);
                close(fd);
            }
        }
    }
}

static struct io_uring_sqe *entry(struct io_uring *ring, void *data)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    if (!sqe) {
        io_uring_submit(ring);
        sqe = io_uring_get_sqe(ring);
    }
    io_uring_sqe_set_data(sqe, data);
    return sqe;
}

static void read_half(struct io_uring *ring, struct half *half)
{
    half->sending = 0;
    io_uring_prep_recv(entry(ring, half), half->from, half->buffer, BUFFER_BYTES, 0);
}

static void run_uring(int listener)
{
    struct io_uring ring;
    struct io_uring_params parameters = {.flags = IORING_SETUP_SINGLE_ISSUER |
                                                  IORING_SETUP_DEFER_TASKRUN};
    if (io_uring_queue_init_params(ENTRIES, &ring, &parameters)) {
        fprintf(stderr, "copyloop: no ring with SINGLE_ISSUER and DEFER_TASKRUN here\n");
        exit(1);
    }
    io_uring_prep_poll_multishot(entry(&ring, NULL), listener, POLLIN);
    for (;;) {
        io_uring_submit_and_wait(&ring, 1);
        struct io_uring_cqe *cqe;
        unsigned head, seen = 0;
        io_uring_for_each_cqe(&ring, head, cqe)
        {
            struct half *half = io_uring_cqe_get_data(cqe);
            int client, server;
            seen++;
            if (!half) {
                while (!pair(listener, &client, &server)) {
                    read_half(&ring, join(client, server));
                    read_half(&ring, join(server, client));
                }
            } else if (cqe->res <= 0) {
                /* The other half ends by the shutdown; memory is bounded by the descriptors. */
                shutdown(half->to, SHUT_RDWR);
                if (!half->sending)
                    close(half->from);
            } else if (half->sending) {
                read_half(&ring, half);
            } else {
                half->sending = 1;
                io_uring_prep_send(entry(&ring, half), half->to, half->buffer, (size_t)cqe->res,
                                   MSG_NOSIGNAL | MSG_WAITALL);
            }
        }
        io_uring_cq_advance(&ring, seen);
    }
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: copyloop uring|epoll ADDRESS PORT UPSTREAM_ADDRESS UPSTREAM_PORT "
                        "SECONDS_MAX\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm((unsigned)atoi(argv[6]));
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(argv[3]))};
    upstream =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[5]))};
    if (inet_pton(AF_INET, argv[2], &address.sin_addr) != 1 ||
        inet_pton(AF_INET, argv[4], &upstream.sin_addr) != 1)
        return 2;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(listener, (void *)&address, sizeof(address)) || listen(listener, 1024)) {
        perror("copyloop");
        return 1;
    }
    if (!strcmp(argv[1], "uring"))
        run_uring(listener);
    else
        run_epoll(listener);
    return 0;
}
