/* Heads written: numbers, start lines, fields of a parsed head, answers of our own.
 *
 * Called by proxy/ for every request and every response, so fields that stand together in the
 * bytes received are copied together. Never allocates; see h1_write.h for what a full writer is. */
#include "http/h1_write.h"

void h1_put_number(struct h1_writer *writer, uint64_t number)
{
    char digits[20];
    char *at = digits + sizeof(digits);
    do {
        *--at = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    h1_put(writer, at, (size_t)(digits + sizeof(digits) - at));
}

void h1_put_hex(struct h1_writer *writer, uint64_t number)
{
    char digits[16];
    char *at = digits + sizeof(digits);
    do {
        *--at = "0123456789abcdef"[number & 15];
        number >>= 4;
    } while (number > 0);
    h1_put(writer, at, (size_t)(digits + sizeof(digits) - at));
}

void h1_put_request_line(struct h1_writer *writer, struct slice method, struct slice target)
{
    h1_put_slice(writer, method);
    h1_put_text(writer, " ");
    h1_put_slice(writer, target);
    h1_put_text(writer, " HTTP/1.1\r\n");
}

void h1_put_status_line(struct h1_writer *writer, uint16_t status, struct slice reason)
{
    if (status == 200 && (reason.length == 0 || slice_equal(reason, SLICE("OK")))) {
        h1_put_text(writer, "HTTP/1.1 200 OK\r\n");
        return;
    }
    char line[13] = "HTTP/1.1 000 ";
    line[9] = (char)('0' + status / 100 % 10);
    line[10] = (char)('0' + status / 10 % 10);
    line[11] = (char)('0' + status % 10);
    h1_put(writer, line, sizeof(line));
    h1_put_slice(writer, reason.length > 0 ? reason : h1_reason(status));
    h1_put_text(writer, "\r\n");
}

static bool is_left_out(const struct h1_field *field, uint32_t skip)
{
    return field->hop_by_hop || (H1_FIELD_BIT(field->id) & skip) != 0;
}

/* "name: value" with one blank: its bytes can be copied as they stand, CR LF included. */
static bool is_plain(const struct h1_field *field)
{
    const char *after = field->name.at + field->name.length;
    return field->value.at == after + 2 && after[1] == ' ';
}

void h1_put_fields(struct h1_writer *writer, const struct h1_head *head, uint32_t skip)
{
    const char *run = NULL; /* fields received side by side that are copied in one go */
    const char *run_end = NULL;
    for (uint32_t i = 0; i < head->field_count; i++) {
        const struct h1_field *field = &head->field[i];
        if (is_left_out(field, skip))
            continue;
        const char *value_end = field->value.at + field->value.length;
        bool plain = is_plain(field) && *value_end == '\r'; /* no blank after the value */
        if (run != NULL && (!plain || field->name.at != run_end)) {
            h1_put(writer, run, (size_t)(run_end - run));
            run = NULL;
        }
        if (!plain) {
            h1_put_field(writer, field->name, field->value);
            continue;
        }
        if (run == NULL)
            run = field->name.at;
        run_end = value_end + 2;
    }
    if (run != NULL)
        h1_put(writer, run, (size_t)(run_end - run));
}

void h1_put_answer(struct h1_writer *writer, const struct h1_answer *answer)
{
    h1_put_status_line(writer, answer->status, (struct slice){NULL, 0});
    if (answer->date.length > 0)
        h1_put_field(writer, SLICE("date"), answer->date);
    if (answer->content_type.length > 0)
        h1_put_field(writer, SLICE("content-type"), answer->content_type);
    if (answer->location.length > 0)
        h1_put_field(writer, SLICE("location"), answer->location);
    bool bodiless = answer->status < 200 || answer->status == 204 || answer->status == 304;
    if (!bodiless) { /* RFC 9110 §8.6 */
        h1_put_text(writer, "content-length: ");
        h1_put_number(writer, answer->body.length);
        h1_put_text(writer, "\r\n");
    }
    if (answer->close)
        h1_put_text(writer, H1_CLOSE_FIELD);
    else if (answer->minor == 0)
        h1_put_text(writer, "connection: keep-alive\r\n");
    h1_put_end(writer);
    if (!bodiless && !answer->head_only)
        h1_put_slice(writer, answer->body);
}

struct slice h1_reason(uint16_t status)
{
    switch (status) {
#define REASON(number, text)                                                                       \
    case number:                                                                                   \
        return SLICE(text);
        REASON(100, "Continue")
        REASON(101, "Switching Protocols")
        REASON(103, "Early Hints")
        REASON(200, "OK")
        REASON(201, "Created")
        REASON(202, "Accepted")
        REASON(203, "Non-Authoritative Information")
        REASON(204, "No Content")
        REASON(205, "Reset Content")
        REASON(206, "Partial Content")
        REASON(300, "Multiple Choices")
        REASON(301, "Moved Permanently")
        REASON(302, "Found")
        REASON(303, "See Other")
        REASON(304, "Not Modified")
        REASON(307, "Temporary Redirect")
        REASON(308, "Permanent Redirect")
        REASON(400, "Bad Request")
        REASON(401, "Unauthorized")
        REASON(403, "Forbidden")
        REASON(404, "Not Found")
        REASON(405, "Method Not Allowed")
        REASON(406, "Not Acceptable")
        REASON(407, "Proxy Authentication Required")
        REASON(408, "Request Timeout")
        REASON(409, "Conflict")
        REASON(410, "Gone")
        REASON(411, "Length Required")
        REASON(412, "Precondition Failed")
        REASON(413, "Content Too Large")
        REASON(414, "URI Too Long")
        REASON(415, "Unsupported Media Type")
        REASON(416, "Range Not Satisfiable")
        REASON(417, "Expectation Failed")
        REASON(421, "Misdirected Request")
        REASON(422, "Unprocessable Content")
        REASON(425, "Too Early")
        REASON(426, "Upgrade Required")
        REASON(428, "Precondition Required")
        REASON(429, "Too Many Requests")
        REASON(431, "Request Header Fields Too Large")
        REASON(500, "Internal Server Error")
        REASON(501, "Not Implemented")
        REASON(502, "Bad Gateway")
        REASON(503, "Service Unavailable")
        REASON(504, "Gateway Timeout")
        REASON(505, "HTTP Version Not Supported")
#undef REASON
    default:
        return (struct slice){"", 0};
    }
}

static void put_two(char *at, unsigned number)
{
    at[0] = (char)('0' + number / 10 % 10);
    at[1] = (char)('0' + number % 10);
}

/* Days are turned into a date by counting from 0000-03-01, so that leap days come last; no
 * gmtime(), which takes a lock and reads the environment. */
void h1_format_date(int64_t unix_seconds, char out[H1_DATE_BYTES])
{
    int64_t days = unix_seconds / 86400;
    unsigned second = (unsigned)(unix_seconds % 86400);
    unsigned weekday = (unsigned)((days + 4) % 7); /* 1970-01-01 was a Thursday */
    days += 719468;
    int64_t era = days / 146097;
    unsigned day_of_era = (unsigned)(days % 146097);
    unsigned year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    unsigned day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    unsigned shifted = (5 * day_of_year + 2) / 153; /* 0: March */
    unsigned month = shifted < 10 ? shifted + 2 : shifted - 10;
    unsigned year = (unsigned)(era * 400) + year_of_era + (month < 2);
    memcpy(out, "Thu, 01 Jan 1970 00:00:00 GMT", H1_DATE_BYTES);
    memcpy(out, &"SunMonTueWedThuFriSat"[3 * weekday], 3);
    put_two(out + 5, day_of_year - (153 * shifted + 2) / 5 + 1);
    memcpy(out + 8, &"JanFebMarAprMayJunJulAugSepOctNovDec"[3 * month], 3);
    put_two(out + 12, year / 100);
    put_two(out + 14, year % 100);
    put_two(out + 17, second / 3600);
    put_two(out + 20, second / 60 % 60);
    put_two(out + 23, second % 60);
}
