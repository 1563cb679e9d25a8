/* Request heads and response heads of HTTP/1.1: one strict reading, in two passes over hot bytes.
 *
 * The first pass sees every byte once, 64 at a time: it finds line ends, the end of the head, and
 * any control character, bare CR or bare LF, and refuses those at once, so that a client that will
 * never send CR LF CR LF is not waited for. The second looks at the lines of a whole head.
 * Called by proxy/ for downstream and upstream connections. Never allocates, never copies; the
 * result does not depend on how the bytes were split over calls. */
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "http/framing.h"
#include "http/target.h"

#define METHOD_BYTES_MAX 32
#define LINES_MAX (1 + H1_FIELDS_MAX + 1) /* start line, fields, the empty line */

/* Set in *scanned once the start line was seen and found good. */
#define START_LINE_DONE ((size_t)1 << (sizeof(size_t) * 8 - 1))

/* ---- first pass ------------------------------------------------------------------------- */

struct marks { /* a bit for each of 64 bytes */
    uint64_t cr;
    uint64_t lf;
    uint64_t control; /* others than CR, LF and TAB; DEL is one */
};

#if defined(__SSE2__)
static inline struct marks classify(const char *bytes)
{
    struct marks marks = {0, 0, 0};
#pragma GCC unroll 4
    for (unsigned i = 0; i < 64; i += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(bytes + i));
        __m128i cr = _mm_cmpeq_epi8(v, _mm_set1_epi8('\r'));
        __m128i lf = _mm_cmpeq_epi8(v, _mm_set1_epi8('\n'));
        __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1f)), v);
        __m128i allowed = _mm_or_si128(_mm_or_si128(cr, lf), _mm_cmpeq_epi8(v, _mm_set1_epi8(9)));
        __m128i control =
            _mm_or_si128(_mm_andnot_si128(allowed, low), _mm_cmpeq_epi8(v, _mm_set1_epi8(0x7f)));
        marks.cr |= (uint64_t)(unsigned)_mm_movemask_epi8(cr) << i;
        marks.lf |= (uint64_t)(unsigned)_mm_movemask_epi8(lf) << i;
        marks.control |= (uint64_t)(unsigned)_mm_movemask_epi8(control) << i;
    }
    return marks;
}
#else
static inline struct marks classify(const char *bytes)
{
    struct marks marks = {0, 0, 0};
    for (unsigned i = 0; i < 64; i++) {
        uint8_t c = (uint8_t)bytes[i];
        if (c == '\r')
            marks.cr |= (uint64_t)1 << i;
        else if (c == '\n')
            marks.lf |= (uint64_t)1 << i;
        else if ((c < 0x20 && c != '\t') || c == 0x7f)
            marks.control |= (uint64_t)1 << i;
    }
    return marks;
}
#endif

struct scan {
    const char *bytes;
    size_t length; /* at most head_bytes_max */
    size_t start;  /* of the start line */
    size_t at;     /* all before was looked at */
    bool start_line_done;
    uint32_t start_line_max;
    uint32_t count;          /* of line ends; only valid when the scan began at `start` */
    uint32_t end[LINES_MAX]; /* where the LF of each line stands */
};

static int parse_start_line(bool request, const char *at, const char *end,
                            const struct h1_limits *limits, struct h1_head *out);

static int start_line_too_long(const struct scan *scan)
{
    const char *at = scan->bytes + scan->start;
    size_t method = 0; /* start_line_max is larger than any method we read */
    while (method <= METHOD_BYTES_MAX && field_is_token_char(at[method]))
        method++;
    if (method > METHOD_BYTES_MAX)
        return H1_ERR_METHOD;
    return method > 0 && at[method] == ' ' ? H1_ERR_TARGET_TOO_LONG : H1_ERR_SYNTAX;
}

/* Bytes up to and with the empty line, 0: not there yet, or an error. */
static int scan_lines(struct scan *scan, bool request, const struct h1_limits *limits,
                      struct h1_head *out)
{
    const char *bytes = scan->bytes;
    size_t at = scan->at;
    /* What the two bytes before say about the first two of this block. */
    uint64_t expect_lf = at > scan->start && bytes[at - 1] == '\r';
    uint64_t lf_before = 0; /* bit 63: one byte before, bit 62: two */
    if (at >= scan->start + 1)
        lf_before |= (uint64_t)(bytes[at - 1] == '\n') << 63;
    if (at >= scan->start + 2)
        lf_before |= (uint64_t)(bytes[at - 2] == '\n') << 62;
    while (at < scan->length) {
        size_t left = scan->length - at;
        uint64_t valid = ~(uint64_t)0;
        struct marks marks;
        if (left >= 64) {
            marks = classify(bytes + at);
        } else {
            char padded[64];
            memset(padded, ' ', sizeof(padded));
            memcpy(padded, bytes + at, left);
            marks = classify(padded);
            valid = ((uint64_t)1 << left) - 1;
        }
        uint64_t lf = marks.lf;
        uint64_t empty = lf & (lf << 2 | lf_before >> 62);
        uint64_t bad = (marks.control | (lf ^ (marks.cr << 1 | expect_lf))) & valid;
        if (empty != 0) { /* what follows the head is not ours to judge */
            uint64_t head = empty ^ (empty - 1);
            bad &= head;
            lf &= head;
        }
        if (!scan->start_line_done) {
            uint64_t events = bad | lf;
            size_t quiet =
                events != 0 ? at + (unsigned)__builtin_ctzll(events) : at + (left < 64 ? left : 64);
            if (quiet - scan->start > scan->start_line_max)
                return start_line_too_long(scan);
            if (events != 0) {
                if ((bad & events & -events) != 0)
                    return H1_ERR_SYNTAX;
                int rc =
                    parse_start_line(request, bytes + scan->start, bytes + quiet - 1, limits, out);
                if (rc != 0)
                    return rc;
                scan->start_line_done = true;
            }
        }
        if (__builtin_expect(bad != 0, 0))
            return H1_ERR_SYNTAX;
        uint32_t count = scan->count;
        if (__builtin_expect(count + 64 <= LINES_MAX, 1)) {
            for (; lf != 0; lf &= lf - 1)
                scan->end[count++] = (uint32_t)at + (uint32_t)__builtin_ctzll(lf);
        } else {
            for (; lf != 0; lf &= lf - 1, count++)
                if (count < LINES_MAX)
                    scan->end[count] = (uint32_t)at + (uint32_t)__builtin_ctzll(lf);
        }
        scan->count = count;
        if (empty != 0)
            return (int)(at + (unsigned)__builtin_ctzll(empty) + 1);
        expect_lf = marks.cr >> 63;
        lf_before = marks.lf;
        at += left < 64 ? left : 64;
    }
    scan->at = at;
    return 0;
}

/* ---- start lines ------------------------------------------------------------------------ */

static inline uint64_t load8(const char *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof(word));
    return word;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* "HTTP/1.1", case-sensitive (RFC 9112 §2.3). A higher minor version of 1 is read as 1.1 (RFC 9110
 * §2.5). */
static int read_version(const char *at, struct h1_head *out)
{
    if (load8(at) == load8("HTTP/1.1")) {
        out->minor = 1;
        return 0;
    }
    if (memcmp(at, "HTTP/", 5) != 0 || !is_digit(at[5]) || at[6] != '.' || !is_digit(at[7]))
        return H1_ERR_SYNTAX;
    if (at[5] != '1')
        return H1_ERR_VERSION;
    out->minor = at[7] != '0';
    return 0;
}

static uint8_t method_id(const char *at, size_t length)
{
    static const struct {
        char text[8];
        uint8_t length;
        uint8_t id;
    } methods[] = {{"GET", 3, METHOD_GET},         {"POST", 4, METHOD_POST},
                   {"HEAD", 4, METHOD_HEAD},       {"PUT", 3, METHOD_PUT},
                   {"DELETE", 6, METHOD_DELETE},   {"PATCH", 5, METHOD_PATCH},
                   {"OPTIONS", 7, METHOD_OPTIONS}, {"TRACE", 5, METHOD_TRACE}};
    for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
        if (methods[i].length == length && memcmp(methods[i].text, at, length) == 0)
            return methods[i].id;
    return METHOD_OTHER;
}

/* method SP request-target SP HTTP-version, one blank between (RFC 9112 §3). */
static int parse_request_line(const char *at, const char *end, const struct h1_limits *limits,
                              struct h1_head *out)
{
    const char *method = at;
    while (at < end && field_is_token_char(*at))
        at++;
    size_t method_length = (size_t)(at - method);
    if (method_length == 0 || at == end || *at != ' ')
        return H1_ERR_SYNTAX;
    const char *target = ++at;
    if (end - target < 10 || end[-9] != ' ') /* at least "/ HTTP/1.1" */
        return H1_ERR_SYNTAX;
    int rc = read_version(end - 8, out);
    if (rc != 0)
        return rc;
    out->method = (struct slice){method, method_length};
    out->method_id = method_id(method, method_length);
    if (method_length > METHOD_BYTES_MAX ||
        (out->method_id == METHOD_OTHER && slice_equal(out->method, SLICE("CONNECT"))))
        return H1_ERR_METHOD;
    out->target = (struct slice){target, (size_t)(end - 9 - target)};
    if (out->target.length > limits->target_bytes_max)
        return H1_ERR_TARGET_TOO_LONG;
    out->authority = (struct slice){NULL, 0};
    out->status = 0;
    out->reason = (struct slice){NULL, 0};
    return target_split(out);
}

/* HTTP-version SP status SP [reason] (RFC 9112 §4). The second blank may be missing, as many
 * endpoints leave it out and nothing can be confused by that. */
static int parse_status_line(const char *at, const char *end, struct h1_head *out)
{
    if (end - at < 12)
        return H1_ERR_SYNTAX;
    int rc = read_version(at, out);
    if (rc != 0)
        return rc;
    at += 8;
    if (at[0] != ' ' || !is_digit(at[1]) || !is_digit(at[2]) || !is_digit(at[3]))
        return H1_ERR_SYNTAX;
    unsigned status = (unsigned)((at[1] - '0') * 100 + (at[2] - '0') * 10 + (at[3] - '0'));
    if (status < 100 || status > 599) /* RFC 9110 §15 */
        return H1_ERR_SYNTAX;
    at += 4;
    if (at < end && *at++ != ' ')
        return H1_ERR_SYNTAX;
    out->status = (uint16_t)status;
    out->reason = (struct slice){at, (size_t)(end - at)};
    out->method = out->target = out->path = out->query = out->authority = (struct slice){NULL, 0};
    out->method_id = METHOD_OTHER;
    return 0;
}

static int parse_start_line(bool request, const char *at, const char *end,
                            const struct h1_limits *limits, struct h1_head *out)
{
    return request ? parse_request_line(at, end, limits, out) : parse_status_line(at, end, out);
}

/* ---- fields ----------------------------------------------------------------------------- */

/* Length of the token before the colon, 0 if there is none; *kinds gets FIELD_UNDERSCORE. Long
 * enough names are looked at 16 bytes at a time; anything but letters and '-' is left to the table.
 */
static inline size_t name_length(const char *at, const char *end, const char *limit,
                                 unsigned *kinds)
{
    const char *name = at;
#if defined(__SSE2__)
    while (limit - at >= 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)at);
        __m128i letter = _mm_sub_epi8(_mm_or_si128(v, _mm_set1_epi8(0x20)), _mm_set1_epi8('a'));
        letter = _mm_cmpeq_epi8(_mm_min_epu8(letter, _mm_set1_epi8(25)), letter);
        __m128i plain = _mm_or_si128(letter, _mm_cmpeq_epi8(v, _mm_set1_epi8('-')));
        unsigned other = ~(unsigned)_mm_movemask_epi8(plain) & 0xffff;
        if (other == 0) {
            at += 16;
            continue;
        }
        at += __builtin_ctz(other);
        if (__builtin_expect(*at == ':', 1))
            return (size_t)(at - name);
        break;
    }
#else
    (void)limit;
#endif
    while (at < end && field_is_token_char(*at))
        *kinds |= field_token_table[(uint8_t)*at++];
    return at < end && *at == ':' ? (size_t)(at - name) : 0;
}

static int parse_fields(const struct scan *scan, struct h1_head *out, struct field_seen *seen)
{
    const char *bytes = scan->bytes;
    const char *limit = bytes + scan->length;
    uint32_t fields = scan->count - 2; /* without start line and empty line */
    if (scan->count > LINES_MAX)
        return H1_ERR_FIELD_COUNT;
    uint32_t once = 0, twice = 0;
    const char *at = bytes + scan->end[0] + 1;
    for (uint32_t i = 0; i < fields; i++) {
        struct h1_field *field = &out->field[i];
        const char *next = bytes + scan->end[i + 1] + 1;
        const char *end = next - 2;
        unsigned kinds = 0;
        size_t length = name_length(at, end, limit, &kinds);
        if (length == 0)
            return H1_ERR_SYNTAX;
        uint8_t id = field_lookup(at, length);
        uint32_t bit = 1u << id;
        field->name = (struct slice){at, length};
        field->id = id;
        field->hop_by_hop = (FIELD_HOP_BY_HOP & bit) != 0;
        if ((kinds & FIELD_UNDERSCORE) != 0 && field_is_alias(at, length))
            field->hop_by_hop = 1;
        twice |= once & bit;
        once |= bit;
        seen->at[id] = (uint8_t)i;
        at += length + 1;
        if (at < end && *at == ' ') /* nearly always one, and no more */
            at++;
        while (at < end && field_is_blank(*at))
            at++;
        while (end > at && field_is_blank(end[-1]))
            end--;
        field->value = (struct slice){at, (size_t)(end - at)};
        at = next;
    }
    out->field_count = fields;
    seen->once = once;
    seen->twice = twice;
    return 0;
}

static int check_host(struct h1_head *out, const struct field_seen *seen)
{
    if (!(seen->once >> FIELD_HOST & 1))
        return out->minor == 0 ? 0 : H1_ERR_HOST;
    if (seen->twice >> FIELD_HOST & 1)
        return H1_ERR_HOST;
    struct slice host = out->field[seen->at[FIELD_HOST]].value;
    if (!target_authority_valid(host))
        return H1_ERR_HOST;
    if (out->authority.at == NULL)
        out->authority = host;
    return 0;
}

/* ---- the two parsers -------------------------------------------------------------------- */

static int parse_lines(struct scan *scan, bool request, const struct h1_limits *limits,
                       size_t *scanned, struct h1_head *out)
{
    bool retry = (*scanned & ~START_LINE_DONE) > scan->start;
    scan->count = 0;
    /* a status line may fill the head, a request line is judged by its target */
    scan->start_line_max =
        request ? METHOD_BYTES_MAX + 1 + limits->target_bytes_max + 9 : limits->head_bytes_max;
    scan->start_line_done = retry && (*scanned & START_LINE_DONE) != 0;
    scan->at = retry ? *scanned & ~START_LINE_DONE : scan->start;
    int rc = scan_lines(scan, request, limits, out);
    if (rc > 0 && retry) { /* once more for the lines, now that all are there */
        scan->count = 0;
        scan->start_line_done = false;
        scan->at = scan->start;
        rc = scan_lines(scan, request, limits, out);
    }
    if (rc == 0) {
        if (scan->length >= limits->head_bytes_max)
            return H1_ERR_HEAD_TOO_LARGE;
        *scanned = scan->at | (scan->start_line_done ? START_LINE_DONE : 0);
    }
    return rc;
}

int h1_parse_request(const char *bytes, size_t length, const struct h1_limits *limits,
                     size_t *scanned, struct h1_head *out)
{
    struct scan scan;
    struct field_seen seen;
    scan.bytes = bytes;
    scan.start = 0;
    scan.length = length < limits->head_bytes_max ? length : limits->head_bytes_max;
    /* One empty line before the request line is let pass, as RFC 9112 §2.2 asks: old clients send
     * CR LF after a POST's body. It can hide nothing; more of them are refused. */
    if (length > 0 && bytes[0] == '\r') {
        if (length == 1)
            return 0;
        if (bytes[1] != '\n')
            return H1_ERR_SYNTAX;
        scan.start = 2;
    }
    int consumed = parse_lines(&scan, true, limits, scanned, out);
    if (consumed <= 0)
        return consumed;
    int rc = parse_fields(&scan, out, &seen);
    if (rc == 0)
        rc = check_host(out, &seen);
    if (rc == 0)
        rc = framing_request(out, &seen);
    return rc == 0 ? consumed : rc;
}

int h1_parse_response(const char *bytes, size_t length, const struct h1_limits *limits,
                      uint8_t request_method_id, size_t *scanned, struct h1_head *out)
{
    struct scan scan;
    struct field_seen seen;
    scan.bytes = bytes;
    scan.start = 0;
    scan.length = length < limits->head_bytes_max ? length : limits->head_bytes_max;
    int consumed = parse_lines(&scan, false, limits, scanned, out);
    if (consumed <= 0)
        return consumed;
    int rc = parse_fields(&scan, out, &seen);
    if (rc == 0)
        rc = framing_response(out, &seen, request_method_id);
    return rc == 0 ? consumed : rc;
}
