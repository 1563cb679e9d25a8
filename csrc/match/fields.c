/* Headers, query parameters, methods and times of a request against a route's conditions.
 *
 * Source: Gateway API v1, HTTPHeaderMatch and HTTPQueryParamMatch. A header that is there more than
 * once is its values joined by ", " (RFC 9110 §5.3). Of a query parameter that is there more than
 * once the first counts; names and values are compared decoded ("+" is a blank, "%41" an A). */
#include "match/fields.h"

#include <time.h>

#include "match/patterns.h"

#define JOINED_BYTES_MAX 8192 /* of what an expression is tried on; a longer one does not match */

struct text {
    char at[JOINED_BYTES_MAX];
    size_t length;
    bool over;
};

static void put(struct text *text, struct slice more)
{
    if (more.length > sizeof(text->at) - text->length) {
        text->over = true;
        return;
    }
    if (more.length > 0)
        memcpy(text->at + text->length, more.at, more.length);
    text->length += more.length;
}

static bool value_matches(const struct image *image, const struct edge_image_field_match *match,
                          struct slice value)
{
    if (match->type == EDGE_FIELD_EXACT)
        return slice_equal(value, image_text(image, match->value));
    return pattern_set_matches(image, match->pattern, value);
}

static bool header_matches(const struct image *image, const struct edge_image_field_match *match,
                           const struct match_request *request)
{
    const struct slice name = image_text(image, match->name);
    const struct h1_field *first = NULL;
    struct text joined;

    joined.length = 0;
    for (uint32_t i = 0; i < request->field_count; i++) {
        const struct h1_field *field = &request->fields[i];
        if (!slice_equal_nocase(field->name, name))
            continue;
        if (first == NULL) {
            first = field;
            continue;
        }
        if (joined.length == 0) { /* the second: now they must be joined */
            joined.over = false;
            put(&joined, first->value);
        }
        put(&joined, SLICE(", "));
        put(&joined, field->value);
    }
    if (first == NULL)
        return false;
    if (joined.length == 0)
        return value_matches(image, match, first->value);
    return !joined.over && value_matches(image, match, (struct slice){joined.at, joined.length});
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = ascii_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A broken escape stands for itself. */
static void decode(struct slice raw, struct text *out)
{
    out->length = 0;
    out->over = false;
    for (size_t i = 0; i < raw.length; i++) {
        char c = raw.at[i] == '+' ? ' ' : raw.at[i];
        if (c == '%' && i + 2 < raw.length && hex(raw.at[i + 1]) >= 0 && hex(raw.at[i + 2]) >= 0) {
            c = (char)(hex(raw.at[i + 1]) * 16 + hex(raw.at[i + 2]));
            i += 2;
        }
        put(out, (struct slice){&c, 1});
    }
}

static bool plain(struct slice raw)
{
    for (size_t i = 0; i < raw.length; i++)
        if (raw.at[i] == '%' || raw.at[i] == '+')
            return false;
    return true;
}

static bool is_name(struct slice raw, struct slice name, struct text *room)
{
    if (plain(raw))
        return slice_equal(raw, name);
    decode(raw, room);
    return !room->over && slice_equal((struct slice){room->at, room->length}, name);
}

static bool query_matches(const struct image *image, const struct edge_image_field_match *match,
                          const struct match_request *request)
{
    const struct slice name = image_text(image, match->name);
    struct slice left = request->query;
    struct text room;

    while (left.length > 0) {
        const char *end = memchr(left.at, '&', left.length);
        struct slice pair = {left.at, end != NULL ? (size_t)(end - left.at) : left.length};
        const char *equals = pair.length > 0 ? memchr(pair.at, '=', pair.length) : NULL;
        struct slice key = {pair.at, equals != NULL ? (size_t)(equals - pair.at) : pair.length};
        struct slice value = {pair.at + pair.length, 0};
        size_t used = pair.length + (end != NULL);
        if (equals != NULL)
            value = (struct slice){equals + 1, pair.length - key.length - 1};
        if (pair.length > 0 && is_name(key, name, &room)) {
            if (plain(value))
                return value_matches(image, match, value);
            decode(value, &room);
            return !room.over && value_matches(image, match, (struct slice){room.at, room.length});
        }
        left = (struct slice){left.at + used, left.length - used};
    }
    return false;
}

static bool field_matches(const struct image *image, const struct edge_image_field_match *match,
                          const struct match_request *request)
{
    switch (match->target) {
    case EDGE_FIELD_HEADER:
        return header_matches(image, match, request);
    case EDGE_FIELD_QUERY:
        return query_matches(image, match, request);
    default:
        return slice_equal(request->method, image_text(image, match->value));
    }
}

uint32_t fields_verdict(const struct image *image, const struct edge_image_condition *condition,
                        const struct match_request *request, uint32_t *field)
{
    if (condition->not_before_s != 0 || condition->not_after_s != 0) {
        int64_t now_s = request->now_s != 0 ? request->now_s : (int64_t)time(NULL);
        if (now_s < condition->not_before_s ||
            (condition->not_after_s != 0 && now_s > condition->not_after_s))
            return EDGE_VERDICT_TIME;
    }
    for (uint32_t i = 0; i < condition->field_match_count; i++) {
        uint32_t index = condition->first_field_match + i;
        if (field_matches(image, &image->field_matches[index], request))
            continue;
        if (field != NULL)
            *field = index;
        return EDGE_VERDICT_FIELD;
    }
    return EDGE_VERDICT_WON;
}
