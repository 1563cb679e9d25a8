/* Formatting access log lines and writing them out. Called by worker.c (put) and runtime.c.
 *
 * Text has the field order of ingress-nginx's default format, so that what reads those logs reads
 * these; JSON escapes everything that a client wrote. A sink that blocks only fills the rings. */
#include "worker/access_log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"

#define PAUSE_NS 20000000 /* between two looks while lines come */
#define PAUSES_MAX 20     /* looks without a line before it sleeps until woken */

/* ---- lines ------------------------------------------------------------------------------------
 */

/* Bytes that could end a line or a quoted text become \xHH (text) or \u00HH (JSON). */
static void put_escaped(struct h1_writer *out, struct slice text, bool json)
{
    static const char HEX[] = "0123456789abcdef";
    size_t from = 0;
    for (size_t i = 0; i < text.length; i++) {
        uint8_t byte = (uint8_t)text.at[i];
        if (byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\')
            continue;
        h1_put(out, text.at + from, i - from);
        from = i + 1;
        if (json && (byte == '"' || byte == '\\')) {
            char pair[2] = {'\\', (char)byte};
            h1_put(out, pair, 2);
        } else {
            char code[6] = {'\\', 'u', '0', '0', HEX[byte >> 4], HEX[byte & 15]};
            if (json)
                h1_put(out, code, 6);
            else
                h1_put(out, (char[4]){'\\', 'x', HEX[byte >> 4], HEX[byte & 15]}, 4);
        }
    }
    if (from < text.length)
        h1_put(out, text.at + from, text.length - from);
}

static void put_or_dash(struct h1_writer *out, struct slice text)
{
    if (text.length > 0)
        put_escaped(out, text, false);
    else
        h1_put_text(out, "-");
}

/* Seconds with milliseconds: 0.004 */
static void put_seconds(struct h1_writer *out, uint64_t ns)
{
    uint64_t ms = ns / 1000000;
    h1_put_number(out, ms / 1000);
    char rest[4] = {'.', (char)('0' + ms / 100 % 10), (char)('0' + ms / 10 % 10),
                    (char)('0' + ms % 10)};
    h1_put(out, rest, 4);
}

static void put_two(struct h1_writer *out, unsigned number)
{
    char digits[2] = {(char)('0' + number / 10 % 10), (char)('0' + number % 10)};
    h1_put(out, digits, 2);
}

/* ISO 8601 with milliseconds, UTC, in both formats. */
static void put_time(struct h1_writer *out, int64_t wall_ns)
{
    static _Thread_local int64_t cached_s = -1;
    static _Thread_local char cached[24];
    int64_t seconds = wall_ns / 1000000000;
    if (seconds != cached_s) {
        struct tm tm;
        struct h1_writer writer;
        time_t at = (time_t)seconds;
        gmtime_r(&at, &tm);
        h1_writer_init(&writer, cached, sizeof cached);
        h1_put_number(&writer, (uint64_t)tm.tm_year + 1900);
        h1_put_text(&writer, "-");
        put_two(&writer, (unsigned)tm.tm_mon + 1);
        h1_put_text(&writer, "-");
        put_two(&writer, (unsigned)tm.tm_mday);
        h1_put_text(&writer, "T");
        put_two(&writer, (unsigned)tm.tm_hour);
        h1_put_text(&writer, ":");
        put_two(&writer, (unsigned)tm.tm_min);
        h1_put_text(&writer, ":");
        put_two(&writer, (unsigned)tm.tm_sec);
        cached_s = seconds;
    }
    unsigned ms = (unsigned)(wall_ns / 1000000 % 1000);
    h1_put(out, cached, 19);
    h1_put(out,
           (char[5]){'.', (char)('0' + ms / 100), (char)('0' + ms / 10 % 10), (char)('0' + ms % 10),
                     'Z'},
           5);
}

static void put_endpoint(struct h1_writer *out, const struct exchange_try *try)
{
    char text[INET6_ADDRSTRLEN];
    bool v4 = IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)(const void *)try->address);
    if (v4) {
        for (int i = 12; i < 16; i++) {
            if (i > 12)
                h1_put_text(out, ".");
            h1_put_number(out, try->address[i]);
        }
    } else {
        inet_ntop(AF_INET6, try->address, text, sizeof text);
        h1_put_text(out, "[");
        h1_put(out, text, strlen(text));
        h1_put_text(out, "]");
    }
    h1_put_text(out, ":");
    h1_put_number(out, try->port);
}

struct line {
    struct slice method, target, host, referer, agent, client, request_id;
    uint64_t duration_ns, upstream_ns;
    int64_t wall_ns;
    const struct exchange_try *last; /* 0: no endpoint was asked */
};

static void collect(struct line *line, const struct proxy *proxy, const struct exchange *exchange)
{
    const struct h1_head *request = exchange->request;
    uint64_t now = loop_now_ns(proxy->loop);
    memset(line, 0, sizeof *line);
    line->client = (struct slice){exchange->client->text, exchange->client->text_length};
    line->request_id = exchange->request_id;
    line->duration_ns = now - exchange->began_ns;
    line->wall_ns = (int64_t)exchange->began_ns + proxy->wall_offset_ns;
    if (exchange->tries_count > 0) {
        line->last = &exchange->tries[exchange->tries_count - 1];
        uint64_t end = exchange->answered_ns ? exchange->answered_ns : now;
        line->upstream_ns = end - exchange->upstream_ns;
    }
    if (!request)
        return;
    line->method = request->method;
    line->target = request->target;
    line->host = request->authority;
    for (uint32_t i = 0; i < request->field_count; i++) {
        const struct h1_field *field = &request->field[i];
        if (field->id != FIELD_OTHER)
            continue;
        if (field->name.length == 7 && slice_equal_nocase(field->name, SLICE("referer")))
            line->referer = field->value;
        else if (field->name.length == 10 && slice_equal_nocase(field->name, SLICE("user-agent")))
            line->agent = field->value;
    }
}

static void put_text_line(struct h1_writer *out, const struct line *line,
                          const struct exchange *exchange)
{
    h1_put_slice(out, line->client);
    h1_put_text(out, " - - [");
    put_time(out, line->wall_ns);
    h1_put_text(out, "] \"");
    put_escaped(out, line->method, false);
    h1_put_text(out, " ");
    put_escaped(out, line->target, false);
    h1_put_text(out, " HTTP/1.");
    h1_put_number(out, exchange->request ? exchange->request->minor : 1);
    h1_put_text(out, "\" ");
    h1_put_number(out, exchange->status);
    h1_put_text(out, " ");
    h1_put_number(out, exchange->response_bytes);
    h1_put_text(out, " \"");
    put_or_dash(out, line->referer);
    h1_put_text(out, "\" \"");
    put_or_dash(out, line->agent);
    h1_put_text(out, "\" ");
    h1_put_number(out, exchange->request_bytes);
    h1_put_text(out, " ");
    put_seconds(out, line->duration_ns);
    h1_put_text(out, " [");
    put_or_dash(out, exchange->upstream_name);
    h1_put_text(out, "] [");
    put_or_dash(out, exchange->route_name);
    h1_put_text(out, "] ");
    if (line->last) {
        put_endpoint(out, line->last);
        h1_put_text(out, " ");
        put_seconds(out, line->upstream_ns);
        h1_put_text(out, " ");
        h1_put_number(out, line->last->status);
    } else {
        h1_put_text(out, "- - -");
    }
    h1_put_text(out, " ");
    put_or_dash(out, line->request_id);
    h1_put_text(out, " ");
    const char *failure = synth_name(exchange->failure.kind);
    h1_put(out, failure, strlen(failure));
    h1_put_text(out, " ");
    put_or_dash(out, line->host);
    h1_put_text(out, "\n");
}

#define PUT_JSON(out, key, text)                                                                   \
    do {                                                                                           \
        h1_put_text((out), "\",\"" key "\":\"");                                                   \
        put_escaped((out), (text), true);                                                          \
    } while (0)

static void put_json_line(struct h1_writer *out, const struct line *line,
                          const struct exchange *exchange)
{
    const char *failure = synth_name(exchange->failure.kind);
    h1_put_text(out, "{\"time\":\"");
    put_time(out, line->wall_ns);
    PUT_JSON(out, "remote_addr", line->client);
    PUT_JSON(out, "method", line->method);
    PUT_JSON(out, "host", line->host);
    PUT_JSON(out, "target", line->target);
    PUT_JSON(out, "referer", line->referer);
    PUT_JSON(out, "user_agent", line->agent);
    PUT_JSON(out, "route", exchange->route_name);
    PUT_JSON(out, "upstream", exchange->upstream_name);
    PUT_JSON(out, "request_id", line->request_id);
    h1_put_text(out, "\",\"upstream_addr\":\"");
    if (line->last)
        put_endpoint(out, line->last);
    PUT_JSON(out, "failure", ((struct slice){failure, strlen(failure)}));
    h1_put_text(out, "\",\"status\":");
    h1_put_number(out, exchange->status);
    h1_put_text(out, ",\"upstream_status\":");
    h1_put_number(out, line->last ? line->last->status : 0);
    h1_put_text(out, ",\"request_bytes\":");
    h1_put_number(out, exchange->request_bytes);
    h1_put_text(out, ",\"response_bytes\":");
    h1_put_number(out, exchange->response_bytes);
    h1_put_text(out, ",\"duration\":");
    put_seconds(out, line->duration_ns);
    h1_put_text(out, ",\"upstream_duration\":");
    put_seconds(out, line->upstream_ns);
    h1_put_text(out, "}\n");
}

static void write_line(uint32_t format, const struct line *line, const struct exchange *exchange,
                       struct h1_writer *out)
{
    if (format == EDGE_LOG_JSON)
        put_json_line(out, line, exchange);
    else
        put_text_line(out, line, exchange);
}

/* So short that the line fits, were every byte of them escaped. */
static void shorten(struct line *line)
{
    struct slice *texts[] = {&line->target, &line->referer, &line->agent, &line->request_id};
    static const size_t BYTES[] = {512, 256, 256, 128};
    for (int i = 0; i < 4; i++)
        if (texts[i]->length > BYTES[i])
            texts[i]->length = BYTES[i];
}

size_t access_log_format(uint32_t format, const struct proxy *proxy,
                         const struct exchange *exchange, char *out, size_t capacity)
{
    struct line line;
    struct h1_writer writer;
    collect(&line, proxy, exchange);
    h1_writer_init(&writer, out, capacity);
    write_line(format, &line, exchange, &writer);
    if (writer.full) { /* a client must not keep itself out of the log by writing much */
        shorten(&line);
        h1_writer_init(&writer, out, capacity);
        write_line(format, &line, exchange, &writer);
    }
    return writer.full ? 0 : h1_writer_length(&writer);
}

/* ---- rings ------------------------------------------------------------------------------------
 */

int access_log_init(struct access_log *log, uint32_t workers, int fd, uint32_t format,
                    struct edge_error *err)
{
    log->format = format;
    log->ring_count = workers;
    atomic_store(&log->fd, fd);
    atomic_store(&log->next_fd, -1);
    log->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (log->wake_fd < 0)
        return error_system(err, errno, "eventfd");
    log->rings = aligned_alloc(64, workers * sizeof *log->rings);
    if (!log->rings)
        return error_set(err, EDGE_ERR_NOMEM, "no memory for the access log");
    memset(log->rings, 0, workers * sizeof *log->rings);
    for (uint32_t i = 0; i < workers; i++) {
        log->rings[i].bytes = malloc(ACCESS_LOG_RING_BYTES);
        if (!log->rings[i].bytes)
            return error_set(err, EDGE_ERR_NOMEM, "no memory for the access log");
        /* Bytes go round the whole ring however fast it is drained: what would be touched page by
         * page during the first minutes, and look like a leak, is there from the beginning. (Of
         * zeros gcc would make a calloc(), which touches nothing.) */
        memset(log->rings[i].bytes, '\n', ACCESS_LOG_RING_BYTES);
    }
    return EDGE_OK;
}

void access_log_release(struct access_log *log)
{
    for (uint32_t i = 0; log->rings && i < log->ring_count; i++)
        free(log->rings[i].bytes);
    free(log->rings);
    log->rings = 0;
    if (log->wake_fd >= 0)
        close(log->wake_fd);
}

static void wake(struct access_log *log)
{
    uint64_t one = 1;
    if (write(log->wake_fd, &one, sizeof one) < 0)
        return; /* it is awake already */
}

void access_log_put(struct access_log *log, uint32_t index, struct proxy *proxy,
                    const struct exchange *exchange)
{
    struct access_log_ring *ring = &log->rings[index];
    char text[ACCESS_LOG_LINE_MAX];
    uint64_t at = atomic_load_explicit(&ring->written, memory_order_relaxed);
    uint64_t drained = atomic_load_explicit(&ring->drained, memory_order_acquire);
    size_t offset = at & (ACCESS_LOG_RING_BYTES - 1), room = ACCESS_LOG_RING_BYTES - offset;
    size_t space = ACCESS_LOG_RING_BYTES - (size_t)(at - drained);
    bool direct = room >= sizeof text && space >= sizeof text;
    char *out = direct ? (char *)ring->bytes + offset : text;
    size_t length = access_log_format(log->format, proxy, exchange, out, sizeof text);
    if (length == 0 || length > space) {
        COUNT(proxy->lane->log_dropped, 1);
        return;
    }
    if (!direct) {
        size_t first = length < room ? length : room;
        memcpy(ring->bytes + offset, text, first);
        memcpy(ring->bytes, text + first, length - first);
    }
    atomic_store_explicit(&ring->written, at + length, memory_order_release);
    COUNT(proxy->lane->log_lines, 1);
    if (atomic_load_explicit(&log->sleeps, memory_order_relaxed) &&
        atomic_exchange(&log->sleeps, false))
        wake(log);
}

/* ---- the thread --------------------------------------------------------------------------------
 */

/* A sink takes what it has room for, which may end in the middle of a line: the rest of that line
 * goes out before anything of another ring. */
static bool drain(struct access_log *log, struct access_log_ring *ring)
{
    if (log->torn && log->torn != ring)
        return false;
    uint64_t at = atomic_load_explicit(&ring->drained, memory_order_relaxed);
    uint64_t end = atomic_load_explicit(&ring->written, memory_order_acquire);
    if (at == end)
        return false;
    size_t offset = at & (ACCESS_LOG_RING_BYTES - 1);
    size_t length = (size_t)(end - at);
    if (length > ACCESS_LOG_RING_BYTES - offset)
        length = ACCESS_LOG_RING_BYTES - offset;
    ssize_t written = write(atomic_load(&log->fd), ring->bytes + offset, length);
    if (written < 0) {
        /* Blocked, full or broken: it stays in the ring, and what does not fit there is dropped and
         * counted by the worker. So a disk that has room again gets whole lines. */
        if (!atomic_load(&log->stopping))
            return false;
        written = (ssize_t)length;
    }
    if (written > 0)
        log->torn = ring->bytes[offset + (size_t)written - 1] == '\n' ? 0 : ring;
    atomic_store_explicit(&ring->drained, at + (uint64_t)written, memory_order_release);
    return true;
}

static void take_reopened(struct access_log *log)
{
    int fd = atomic_exchange(&log->next_fd, -1);
    if (fd < 0)
        return;
    int old = atomic_exchange(&log->fd, fd);
    close(old);
}

/* Until a worker has a line. Half a second at most, should a wake-up and the sleep cross. */
static void sleep_until_woken(struct access_log *log)
{
    struct pollfd poll_fd = {.fd = log->wake_fd, .events = POLLIN};
    uint64_t count;
    atomic_store(&log->sleeps, true);
    for (uint32_t i = 0; i < log->ring_count; i++)
        if (atomic_load(&log->rings[i].written) != atomic_load(&log->rings[i].drained)) {
            struct timespec pause = {.tv_nsec = PAUSE_NS};
            atomic_store(&log->sleeps, false);
            nanosleep(&pause, 0); /* the sink takes nothing, or a line came just now */
            return;
        }
    if (poll(&poll_fd, 1, 500) > 0 && read(log->wake_fd, &count, sizeof count) < 0)
        return;
    atomic_store(&log->sleeps, false);
}

void access_log_run(struct access_log *log)
{
    unsigned quiet = 0;
    for (;;) {
        bool any = false, stopping = atomic_load(&log->stopping);
        take_reopened(log);
        for (uint32_t i = 0; i < log->ring_count; i++)
            while (drain(log, &log->rings[i]))
                any = true;
        if (stopping && !any)
            return;
        quiet = any ? 0 : quiet + 1;
        if (quiet > PAUSES_MAX) {
            sleep_until_woken(log);
        } else {
            struct timespec pause = {.tv_nsec = PAUSE_NS};
            nanosleep(&pause, 0);
        }
    }
}

void access_log_stop(struct access_log *log)
{
    atomic_store(&log->stopping, true);
    wake(log);
}

void access_log_reopen(struct access_log *log, int fd)
{
    int unused = atomic_exchange(&log->next_fd, fd);
    if (unused >= 0)
        close(unused);
    wake(log);
}
