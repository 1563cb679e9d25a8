/* Access log lines: what a client writes cannot end a line or a JSON text; a full ring drops.
 *
 * links: http/h1_write.c base/error.c proxy/synth.c */
#define _GNU_SOURCE
#include "worker/access_log.c"

#include <fcntl.h>
#include <sys/mman.h>

#include "tap.h"

struct loop {
    uint64_t now_ns;
};
uint64_t loop_now_ns(const struct loop *loop)
{
    return loop->now_ns;
}

static void test_rings_are_resident_from_the_start(void)
{
    static unsigned char pages[ACCESS_LOG_RING_BYTES / 4096];
    struct access_log log = {.wake_fd = -1};
    struct edge_error err;
    unsigned present = 0;

    IS(access_log_init(&log, 1, -1, EDGE_LOG_TEXT, &err), EDGE_OK, "rings made");
    uintptr_t first = ((uintptr_t)log.rings[0].bytes + 4095) & ~(uintptr_t)4095;
    IS(mincore((void *)first, ACCESS_LOG_RING_BYTES - 4096, pages), 0, "mincore");
    for (size_t i = 0; i < sizeof pages - 1; i++)
        present += pages[i] & 1;
    IS(present, sizeof pages - 1, "pages of the ring that are there before the first line");
    access_log_release(&log);
}

/* Lines stay in the ring while the disk is full, and are whole afterwards. */
static void test_a_full_disk_tears_no_line(struct proxy *proxy, const struct exchange *exchange)
{
    struct access_log log = {.wake_fd = -1};
    struct edge_error err;
    char line[ACCESS_LOG_LINE_MAX], found[ACCESS_LOG_LINE_MAX];
    char name[] = "/tmp/edge-log-XXXXXX";
    int full = open("/dev/full", O_WRONLY), file = mkstemp(name);
    int kept = dup(file);

    unlink(name);
    IS(access_log_init(&log, 1, full, EDGE_LOG_TEXT, &err), EDGE_OK, "a ring");
    access_log_put(&log, 0, proxy, exchange);
    OK(!drain(&log, &log.rings[0]), "a full disk takes nothing");
    OK(!drain(&log, &log.rings[0]), "nor at the next try");
    access_log_reopen(&log, file);
    take_reopened(&log);
    OK(drain(&log, &log.rings[0]), "another file does");
    size_t length = access_log_format(EDGE_LOG_TEXT, proxy, exchange, line, sizeof line);
    IS(pread(kept, found, sizeof found, 0), (ssize_t)length, "the whole line");
    OK(memcmp(found, line, length) == 0, "as it was");
    close(file);
    close(kept);
    access_log_release(&log);
}

/* Two workers, a pipe of one page: what it takes ends in the middle of a line. */
static void test_a_half_line_is_ended_before_another_ring_writes(struct proxy *proxy,
                                                                 const struct exchange *exchange)
{
    struct access_log log = {.wake_fd = -1};
    struct edge_error err;
    char line[ACCESS_LOG_LINE_MAX], found[8192];
    int ends[2];

    IS(pipe2(ends, O_NONBLOCK), 0, "a pipe");
    IS(fcntl(ends[1], F_SETPIPE_SZ, 4096), 4096, "of one page");
    IS(access_log_init(&log, 2, ends[1], EDGE_LOG_TEXT, &err), EDGE_OK, "two rings");
    size_t length = access_log_format(EDGE_LOG_TEXT, proxy, exchange, line, sizeof line);
    size_t lines = 4096 / length + 1;
    for (size_t i = 0; i < lines; i++)
        access_log_put(&log, 0, proxy, exchange);
    access_log_put(&log, 1, proxy, exchange);
    OK(4096 % length != 0 && drain(&log, &log.rings[0]), "a page is taken, it ends in a line");
    OK(!drain(&log, &log.rings[0]), "no room for the rest");
    IS(read(ends[0], found, 4096), 4096, "room");
    OK(!drain(&log, &log.rings[1]), "the other ring waits");
    OK(drain(&log, &log.rings[0]), "the rest");
    OK(drain(&log, &log.rings[1]), "then the other ring");
    ssize_t rest = read(ends[0], found + 4096, sizeof found - 4096);
    IS(rest, (ssize_t)((lines + 1) * length) - 4096, "all of it");
    for (size_t i = 0; i <= lines; i++)
        OK(memcmp(found + i * length, line, length) == 0, "a whole line");
    close(ends[0]);
    close(ends[1]);
    access_log_release(&log);
}

int main(void)
{
    static struct loop loop = {.now_ns = 5000000};
    static struct edge_lane lane;
    static struct proxy proxy;
    static struct exchange exchange;
    static struct h1_head request;
    struct exchange_client client = {.text = "192.0.2.1", .text_length = 9};
    struct edge_error err;
    struct access_log log = {.wake_fd = -1};
    char line[ACCESS_LOG_LINE_MAX];

    test_rings_are_resident_from_the_start();
    proxy.loop = &loop;
    proxy.lane = &lane;
    exchange.client = &client;
    exchange.proxy = &proxy;
    exchange.status = 400;
    size_t length = access_log_format(EDGE_LOG_TEXT, &proxy, &exchange, line, sizeof line);
    OK(length > 0 && line[length - 1] == '\n', "a request that could not be read has a line");
    request.method = SLICE("GET");
    request.target = SLICE("/\"\n\\\x80");
    exchange.request = &request;
    length = access_log_format(EDGE_LOG_TEXT, &proxy, &exchange, line, sizeof line);
    line[length] = 0;
    OK(strstr(line, "\"GET /\\x22\\x0a\\x5c\\x80 HTTP/1.0\"") != 0, "text escapes");
    length = access_log_format(EDGE_LOG_JSON, &proxy, &exchange, line, sizeof line);
    line[length] = 0;
    OK(strstr(line, "\"target\":\"/\\\"\\u000a\\\\\\u0080\"") != 0, "JSON escapes");
    OK(line[0] == '{' && strcmp(line + length - 2, "}\n") == 0, "one object a line");
    IS(access_log_format(EDGE_LOG_JSON, &proxy, &exchange, line, 100), 0, "too long is nothing");

    static char long_text[30000];
    memset(long_text, 0xff, sizeof long_text);
    struct slice whole = {long_text, sizeof long_text};
    request.target = exchange.request_id = whole;
    request.field[0] = (struct h1_field){.name = SLICE("User-Agent"), .value = whole};
    request.field[1] = (struct h1_field){.name = SLICE("Referer"), .value = whole};
    request.field_count = 2;
    length = access_log_format(EDGE_LOG_TEXT, &proxy, &exchange, line, sizeof line);
    OK(length > 0 && line[length - 1] == '\n', "a long request is cut, not left out");
    length = access_log_format(EDGE_LOG_JSON, &proxy, &exchange, line, sizeof line);
    OK(length > 0 && memcmp(line + length - 2, "}\n", 2) == 0, "in JSON too");
    request.target = SLICE("/");
    exchange.request_id = (struct slice){0, 0};
    request.field_count = 0;

    OK(access_log_init(&log, 1, -1, EDGE_LOG_TEXT, &err) == 0, "a ring");
    for (int i = 0; i < 20000; i++)
        access_log_put(&log, 0, &proxy, &exchange);
    OK(lane.log_dropped > 0 && lane.log_lines + lane.log_dropped == 20000, "a full ring counts");
    OK(log.rings[0].written <= ACCESS_LOG_RING_BYTES, "and overwrites nothing");
    access_log_release(&log);
    test_a_full_disk_tears_no_line(&proxy, &exchange);
    test_a_half_line_is_ended_before_another_ring_writes(&proxy, &exchange);
    return tap_done();
}
