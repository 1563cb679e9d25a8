/* Header fields: token table, names that the data plane knows, lists, what Connection names.
 *
 * Called by h1_parse.c for each field, by framing.c for lists, by h1_chunked.c for trailers. Never
 * allocates, never changes the bytes. */
#include "http/field.h"

/* "!#$%&'*+-.^_`|~", digits, letters. */
const uint8_t field_token_table[256] = {
    ['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1,         ['&'] = 1,         ['\''] = 1,
    ['*'] = 1, ['+'] = 1, ['-'] = 1, ['.'] = 1,         ['^'] = 1,         ['_'] = FIELD_UNDERSCORE,
    ['`'] = 1, ['|'] = 1, ['~'] = 1, ['0' ... '9'] = 1, ['A' ... 'Z'] = 1, ['a' ... 'z'] = 1,
};

const struct field_known field_known_table[64] = {
    [48] = {"host", 4, FIELD_HOST},
    [19] = {"connection", 10, FIELD_CONNECTION},
    [51] = {"keep-alive", 10, FIELD_KEEP_ALIVE},
    [36] = {"proxy-connection", 16, FIELD_PROXY_CONNECTION},
    [56] = {"te", 2, FIELD_TE},
    [45] = {"trailer", 7, FIELD_TRAILER},
    [40] = {"transfer-encoding", 17, FIELD_TRANSFER_ENCODING},
    [13] = {"content-length", 14, FIELD_CONTENT_LENGTH},
    [11] = {"upgrade", 7, FIELD_UPGRADE},
    [57] = {"expect", 6, FIELD_EXPECT},
    [5] = {"x-forwarded-for", 15, FIELD_X_FORWARDED_FOR},
    [10] = {"x-forwarded-proto", 17, FIELD_X_FORWARDED_PROTO},
    [0] = {"x-forwarded-host", 16, FIELD_X_FORWARDED_HOST},
    [8] = {"x-forwarded-port", 16, FIELD_X_FORWARDED_PORT},
    [12] = {"x-request-id", 12, FIELD_X_REQUEST_ID},
    [4] = {"x-real-ip", 9, FIELD_X_REAL_IP},
    [16] = {"forwarded", 9, FIELD_FORWARDED},
    [24] = {"date", 4, FIELD_DATE},
    [33] = {"server", 6, FIELD_SERVER},
};

bool field_is_token(struct slice text)
{
    for (size_t i = 0; i < text.length; i++)
        if (!field_is_token_char(text.at[i]))
            return false;
    return text.length > 0;
}

bool field_is_alias(const char *name, size_t length)
{
    char dashed[sizeof(field_known_table[0].text)];
    bool underscore = false;
    if (length == 0 || length > sizeof(dashed) - 1)
        return false;
    for (size_t i = 0; i < length; i++) {
        underscore |= name[i] == '_';
        dashed[i] = (char)(name[i] == '_' ? '-' : name[i]);
    }
    return underscore && field_lookup(dashed, length) != FIELD_OTHER;
}

void field_list_init(struct field_list *list, struct slice value)
{
    list->at = value.at;
    list->end = value.at + value.length;
}

bool field_list_next(struct field_list *list, struct slice *element)
{
    const char *at = list->at, *end = list->end;
    if (at == NULL)
        return false;
    while (at < end && field_is_blank(*at))
        at++;
    const char *comma = at;
    while (comma < end && *comma != ',')
        comma++;
    list->at = comma < end ? comma + 1 : NULL;
    while (comma > at && field_is_blank(comma[-1]))
        comma--;
    *element = (struct slice){at, (size_t)(comma - at)};
    return true;
}

void field_mark_option(struct h1_head *head, struct slice option)
{
    for (uint32_t i = 0; i < head->field_count; i++) {
        struct h1_field *field = &head->field[i];
        if (field->id == FIELD_HOST || field->id == FIELD_CONTENT_LENGTH)
            continue;
        if (slice_equal_nocase(field->name, option))
            field->hop_by_hop = 1;
    }
}
