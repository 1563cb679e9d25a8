/* Times the head parser and the head writer on one request, for bench/micro/h1_parse.py.
 *
 * "parse|write|dribble COUNT": runs the case COUNT times and prints nanoseconds a run. Under
 * callgrind the difference of two counts gives the instructions of a run. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "http/h1_write.h"

static const char request[] = "GET /shop/items/4711?color=blue&size=m HTTP/1.1\r\n"
                              "Host: shop.example.com\r\n"
                              "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0)\r\n"
                              "Accept: text/html,application/json;q=0.9\r\n"
                              "Accept-Language: en-US,en;q=0.5\r\n"
                              "Accept-Encoding: gzip, br\r\n"
                              "Connection: keep-alive\r\n"
                              "Cookie: session=0123456789abcdef\r\n"
                              "Cache-Control: no-cache\r\n"
                              "X-Request-Id: 8f14e45f\r\n"
                              "DNT: 1\r\n"
                              "\r\n";
static const struct h1_limits limits = {32768, 8192};
static struct h1_head head;

static size_t parse_once(void)
{
    size_t scanned = 0;
    return (size_t)h1_parse_request(request, sizeof(request) - 1, &limits, &scanned, &head);
}

static size_t write_once(void)
{
    static char buffer[4096];
    struct h1_writer writer;
    h1_writer_init(&writer, buffer, sizeof(buffer));
    h1_put_request_line(&writer, head.method, head.target);
    h1_put_fields(&writer, &head, H1_FIELD_BIT(FIELD_X_REQUEST_ID));
    h1_put_field(&writer, SLICE("x-request-id"), SLICE("0123456789abcdef0123456789abcdef"));
    h1_put_end(&writer);
    return h1_writer_length(&writer);
}

/* The head arrives byte by byte: what a slow client costs for the whole of it. */
static size_t dribble_once(void)
{
    size_t scanned = 0;
    int rc = 0;
    for (size_t i = 1; i < sizeof(request) && rc == 0; i++)
        rc = h1_parse_request(request, i, &limits, &scanned, &head);
    return (size_t)rc;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    size_t (*once)(void) = argv[1][0] == 'p'   ? parse_once
                           : argv[1][0] == 'w' ? write_once
                                               : dribble_once;
    long count = atol(argv[2]);
    struct timespec start, end;
    volatile size_t sink = parse_once();
    if (sink != sizeof(request) - 1)
        return 1;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (long i = 0; i < count; i++)
        sink = once();
    clock_gettime(CLOCK_MONOTONIC, &end);
    double ns = (double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec);
    printf("%.2f %zu\n", ns / (double)count, sizeof(request) - 1);
    return 0;
}
