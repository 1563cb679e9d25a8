/* The head writer. links: http/h1_parse.c http/field.c http/target.c http/framing.c */
#include <stdlib.h>
#include <time.h>

#include "http/h1_write.c"
#include "tap.h"

static char buffer[1024];
static struct h1_writer writer;

static void begin(size_t capacity)
{
    h1_writer_init(&writer, buffer, capacity);
}

#define WROTE(text, name) IS_TEXT(buffer, h1_writer_length(&writer), text, name)

static void numbers(void)
{
    begin(sizeof(buffer));
    h1_put_number(&writer, 0);
    h1_put_text(&writer, " ");
    h1_put_number(&writer, UINT64_MAX);
    h1_put_text(&writer, " ");
    h1_put_hex(&writer, 0);
    h1_put_text(&writer, " ");
    h1_put_hex(&writer, UINT64_MAX);
    WROTE("0 18446744073709551615 0 ffffffffffffffff", "numbers");
    begin(sizeof(buffer));
    h1_put_chunk_head(&writer, 0x1a2b);
    WROTE("1a2b\r\n", "chunk head");
    begin(H1_CHUNK_HEAD_MAX);
    h1_put_chunk_head(&writer, UINT64_MAX);
    OK(!writer.full, "the longest chunk head fits its maximum");
}

static void start_lines(void)
{
    begin(sizeof(buffer));
    h1_put_request_line(&writer, SLICE("GET"), SLICE("/a?b"));
    WROTE("GET /a?b HTTP/1.1\r\n", "request line");
    begin(sizeof(buffer));
    h1_put_status_line(&writer, 200, SLICE(""));
    h1_put_status_line(&writer, 404, (struct slice){NULL, 0});
    h1_put_status_line(&writer, 503, SLICE("Tired"));
    h1_put_status_line(&writer, 299, SLICE(""));
    WROTE("HTTP/1.1 200 OK\r\nHTTP/1.1 404 Not Found\r\nHTTP/1.1 503 Tired\r\nHTTP/1.1 299 \r\n",
          "status lines");
}

static void full(void)
{
    for (size_t capacity = 0; capacity < 16; capacity++) {
        begin(capacity);
        h1_put_field(&writer, SLICE("name"), SLICE("value"));
        h1_put_text(&writer, "end");
        OK(writer.full && h1_writer_length(&writer) <= capacity, "room for %zu of 16", capacity);
    }
    begin(16);
    h1_put_field(&writer, SLICE("name"), SLICE("value"));
    h1_put_text(&writer, "end");
    h1_put(&writer, "", 0);
    OK(!writer.full, "just enough");
    begin(3);
    h1_put_text(&writer, "long");
    h1_put_text(&writer, "a");
    OK(writer.full && h1_writer_length(&writer) == 0, "nothing after the hole");
}

static void fields(void)
{
    static const char text[] = "GET / HTTP/1.1\r\n"
                               "Host: a\r\n"
                               "A:1\r\n"
                               "B: 2 \r\n"
                               "C:  3\r\n"
                               "D:\r\n"
                               "E: \r\n"
                               "F: 6\r\n"
                               "Connection: G\r\n"
                               "G: 7\r\n"
                               "X-Request-Id: 8\r\n"
                               "H: 9\r\n"
                               "\r\n";
    static const struct h1_limits limits = {32768, 8192};
    static struct h1_head head;
    size_t scanned = 0;
    int rc = h1_parse_request(text, sizeof(text) - 1, &limits, &scanned, &head);
    IS(rc, sizeof(text) - 1, "parsed");
    begin(sizeof(buffer));
    h1_put_fields(&writer, &head, H1_FIELD_BIT(FIELD_X_REQUEST_ID));
    WROTE("Host: a\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: \r\nE: \r\nF: 6\r\nH: 9\r\n",
          "fields in order, blanks made one, left out what stays here");
    bool always = true;
    size_t length = h1_writer_length(&writer);
    for (size_t capacity = 0; capacity < length; capacity++) {
        begin(capacity);
        h1_put_fields(&writer, &head, H1_FIELD_BIT(FIELD_X_REQUEST_ID));
        always &= writer.full;
    }
    OK(always, "too small a buffer is noticed wherever it ends");
}

static void answers(void)
{
    struct h1_answer answer = {.status = 404,
                               .close = true,
                               .minor = 1,
                               .date = SLICE("Sun, 06 Nov 1994 08:49:37 GMT"),
                               .content_type = SLICE("text/plain"),
                               .body = SLICE("no\n")};
    begin(sizeof(buffer));
    h1_put_answer(&writer, &answer);
    WROTE("HTTP/1.1 404 Not Found\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-type: "
          "text/plain\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno\n",
          "an error");
    begin(sizeof(buffer));
    h1_put_answer(&writer, &(struct h1_answer){.status = 308,
                                               .head_only = true,
                                               .minor = 0,
                                               .location = SLICE("https://a/"),
                                               .body = SLICE("x")});
    WROTE("HTTP/1.1 308 Permanent Redirect\r\nlocation: https://a/\r\ncontent-length: "
          "1\r\nconnection: keep-alive\r\n\r\n",
          "a redirect to HEAD of HTTP/1.0");
    begin(sizeof(buffer));
    h1_put_answer(&writer, &(struct h1_answer){.status = 100, .minor = 1});
    WROTE("HTTP/1.1 100 Continue\r\n\r\n", "an interim answer has no length");
}

static void dates(void)
{
    static const int64_t fixed[] = {0, 784111777, 951782400, 951868800, 4102444799, 4107542399};
    char got[H1_DATE_BYTES], wanted[64];
    bool same = true;
    for (size_t i = 0; i < 6 + 20000; i++) {
        time_t seconds = (time_t)(i < 6 ? fixed[i] : (int64_t)(i - 6) * 354321);
        struct tm parts;
        gmtime_r(&seconds, &parts);
        strftime(wanted, sizeof(wanted), "%a, %d %b %Y %H:%M:%S GMT", &parts);
        h1_format_date(seconds, got);
        same &= memcmp(got, wanted, H1_DATE_BYTES) == 0;
    }
    OK(same, "dates as strftime() has them, 1970 to 2190");
}

int main(void)
{
    numbers();
    start_lines();
    full();
    fields();
    answers();
    dates();
    return tap_done();
}
