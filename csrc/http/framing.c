/* Framing rules of RFC 9112 §6: length or chunks, never both, never a repair.
 *
 * Called by h1_parse.c. A message whose length two readers could see differently is refused, even
 * where the RFC lets a recipient mend it: "5, 5", two equal Content-Length fields, a length beside
 * chunks, chunks in HTTP/1.0. Every smuggling attack begins with such a message. */
#include "http/framing.h"

static bool has(const struct field_seen *seen, unsigned id)
{
    return (seen->once >> id & 1) != 0;
}

/* Digits only, at most 19 of them and at most INT64_MAX: no sign, no blank, no list. */
static int read_length(struct slice value, uint64_t *out)
{
    uint64_t number = 0;
    if (value.length == 0 || value.length > 19)
        return H1_ERR_FRAMING;
    for (size_t i = 0; i < value.length; i++) {
        if (value.at[i] < '0' || value.at[i] > '9')
            return H1_ERR_FRAMING;
        number = number * 10 + (uint64_t)(value.at[i] - '0');
    }
    if (number > INT64_MAX)
        return H1_ERR_FRAMING;
    *out = number;
    return 0;
}

/* "chunked" once, alone, in one field is all that we speak. A list that applies chunked twice or
 * not last is contradictory (400); a coding that we do not know is 501 (RFC 9112 §6.1). */
static int read_codings(const struct h1_head *head)
{
    bool chunked = false, unknown = false;
    for (uint32_t i = 0; i < head->field_count; i++) {
        if (head->field[i].id != FIELD_TRANSFER_ENCODING)
            continue;
        struct field_list list;
        struct slice coding;
        field_list_init(&list, head->field[i].value);
        while (field_list_next(&list, &coding)) {
            if (!field_is_token(coding) || chunked)
                return H1_ERR_FRAMING;
            if (slice_equal_nocase(coding, SLICE("chunked")))
                chunked = true;
            else
                unknown = true;
        }
    }
    return unknown ? H1_ERR_CODING : 0;
}

/* What nearly every client says, in two compares. */
static bool is_keep_alive(struct slice value)
{
    return value.length == 10 &&
           ((field_load_lower(value.at) ^ field_load_lower("keep-alive")) |
            (field_load_lower(value.at + 2) ^ field_load_lower("ep-alive"))) == 0;
}

/* Connection decides on keep_alive, names fields that stay here, and allows Upgrade. */
static int read_connection(struct h1_head *head, const struct field_seen *seen, bool *upgrade)
{
    bool close = false, keep = false;
    unsigned options = 0;
    *upgrade = false;
    if (!has(seen, FIELD_CONNECTION)) {
        head->keep_alive = head->minor;
        return 0;
    }
    if (!(seen->twice >> FIELD_CONNECTION & 1) &&
        is_keep_alive(head->field[seen->at[FIELD_CONNECTION]].value)) {
        head->keep_alive = 1;
        return 0;
    }
    for (uint32_t i = 0; i < head->field_count; i++) {
        if (head->field[i].id != FIELD_CONNECTION)
            continue;
        struct field_list list;
        struct slice option;
        field_list_init(&list, head->field[i].value);
        while (field_list_next(&list, &option)) {
            if (option.length == 0)
                continue; /* RFC 9110 §5.6.1.2: empty elements are ignored */
            if (!field_is_token(option) || ++options > FRAMING_OPTIONS_MAX)
                return H1_ERR_SYNTAX;
            if (slice_equal_nocase(option, SLICE("keep-alive")))
                keep = true;
            else if (slice_equal_nocase(option, SLICE("close")))
                close = true;
            else if (slice_equal_nocase(option, SLICE("upgrade")))
                *upgrade = true;
            else
                field_mark_option(head, option);
        }
    }
    head->keep_alive = !close && (head->minor == 1 || keep);
    return 0;
}

/* HTTP itself and TLS are no protocols to switch to: a tunnel would carry requests past the
 * routes (h2c smuggling). */
static bool may_switch(const struct h1_head *head)
{
    for (uint32_t i = 0; i < head->field_count; i++) {
        if (head->field[i].id != FIELD_UPGRADE)
            continue;
        struct field_list list;
        struct slice protocol;
        field_list_init(&list, head->field[i].value);
        while (field_list_next(&list, &protocol)) {
            const char *slash = memchr(protocol.at, '/', protocol.length);
            struct slice name = protocol;
            if (slash != NULL)
                name.length = (size_t)(slash - name.at);
            if (!field_is_token(name) || slice_equal_nocase(name, SLICE("h2c")) ||
                slice_equal_nocase(name, SLICE("h2")) || slice_equal_nocase(name, SLICE("http")) ||
                slice_equal_nocase(name, SLICE("tls")))
                return false;
        }
    }
    return true;
}

static bool list_has(const struct h1_head *head, uint8_t id, struct slice wanted)
{
    for (uint32_t i = 0; i < head->field_count; i++) {
        if (head->field[i].id != id)
            continue;
        struct field_list list;
        struct slice element;
        field_list_init(&list, head->field[i].value);
        while (field_list_next(&list, &element))
            if (slice_equal_nocase(element, wanted))
                return true;
    }
    return false;
}

/* Both kinds of message: body and content_length as far as the fields say. */
static int read_fields(struct h1_head *head, const struct field_seen *seen)
{
    head->body = BODY_NONE;
    head->content_length = 0;
    head->upgrade = 0;
    head->te_trailers = 0;
    head->expect_continue = 0;
    if (has(seen, FIELD_TRANSFER_ENCODING)) {
        if (head->minor == 0 || has(seen, FIELD_CONTENT_LENGTH))
            return H1_ERR_FRAMING;
        head->body = BODY_CHUNKED;
        return read_codings(head);
    }
    if (has(seen, FIELD_CONTENT_LENGTH)) {
        if (seen->twice >> FIELD_CONTENT_LENGTH & 1)
            return H1_ERR_FRAMING;
        int rc =
            read_length(head->field[seen->at[FIELD_CONTENT_LENGTH]].value, &head->content_length);
        if (head->content_length > 0)
            head->body = BODY_LENGTH;
        return rc;
    }
    return 0;
}

int framing_request(struct h1_head *head, const struct field_seen *seen)
{
    bool upgrade;
    int rc = read_fields(head, seen);
    if (rc == 0)
        rc = read_connection(head, seen, &upgrade);
    if (rc != 0)
        return rc;
    if (head->minor == 1) { /* RFC 9110 §7.8, §10.1.1: HTTP/1.0 has neither */
        if (upgrade && has(seen, FIELD_UPGRADE))
            head->upgrade = may_switch(head);
        if (has(seen, FIELD_EXPECT))
            head->expect_continue = list_has(head, FIELD_EXPECT, SLICE("100-continue"));
    }
    if (has(seen, FIELD_TE))
        head->te_trailers = list_has(head, FIELD_TE, SLICE("trailers"));
    return 0;
}

int framing_response(struct h1_head *head, const struct field_seen *seen, uint8_t request_method_id)
{
    bool upgrade;
    int rc = read_fields(head, seen);
    if (rc == 0)
        rc = read_connection(head, seen, &upgrade);
    if (rc != 0)
        return rc;
    head->upgrade = upgrade && has(seen, FIELD_UPGRADE);
    bool bare = head->status < 200 || head->status == 204; /* never a body, nor a length */
    if (bare && head->body == BODY_CHUNKED)
        return H1_ERR_FRAMING;
    if (bare && has(seen, FIELD_CONTENT_LENGTH)) {
        head->field[seen->at[FIELD_CONTENT_LENGTH]].hop_by_hop = 1; /* RFC 9110 §8.6 */
        if (head->content_length > 0)
            head->keep_alive = 0; /* who knows what follows */
    }
    if (bare || head->status == 304 || request_method_id == METHOD_HEAD) {
        head->body = BODY_NONE;
        head->content_length = 0;
        return 0;
    }
    if (head->body == BODY_NONE && !has(seen, FIELD_CONTENT_LENGTH)) {
        head->body = BODY_UNTIL_CLOSE;
        head->keep_alive = 0;
    }
    return 0;
}
