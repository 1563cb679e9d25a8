/* The request target (RFC 9112 §3.2): origin, absolute and asterisk form; host and port.
 *
 * Called by h1_parse.c once a request. Bytes above 0x7f are no part of a URI (RFC 3986 §2) and are
 * refused, as is '#': a fragment is never sent, and proxies were fooled by it (CVE-2023-45539).
 * '\' in a path is refused because some origins read it as '/'. Never decodes, never allocates. */
#include <arpa/inet.h>

#include "http/target.h"

/* 1: may stand in a path, 2: in a query, 4: in a host name. '%' in a path is looked at apart. */
#define PATH 1
#define QUERY 2
#define NAME 4
#define ANY (PATH | QUERY | NAME)
static const uint8_t target_table[256] = {
    ['!'] = PATH | QUERY,         ['"'] = PATH | QUERY,
    ['$'] = PATH | QUERY,         ['%'] = QUERY,
    ['&' ... ','] = PATH | QUERY, ['-' ... '.'] = ANY,
    ['/'] = PATH | QUERY,         ['0' ... '9'] = ANY,
    [':' ... '>'] = PATH | QUERY, ['?'] = QUERY,
    ['@'] = PATH | QUERY,         ['A' ... 'Z'] = ANY,
    ['['] = PATH | QUERY,         ['\\'] = QUERY,
    [']' ... '^'] = PATH | QUERY, ['_'] = ANY,
    ['`'] = PATH | QUERY,         ['a' ... 'z'] = ANY,
    ['{' ... '~'] = PATH | QUERY,
};

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = ascii_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Returns where the path ends: at '?', at the end, or at what is wrong. */
static const char *skip_path(const char *at, const char *end)
{
    while (at < end) {
        if (target_table[(uint8_t)*at] & PATH) {
            at++;
            continue;
        }
        if (*at != '%' || end - at < 3)
            break;
        int high = hex(at[1]), low = hex(at[2]);
        if (high < 0 || low < 0 || (high | low) == 0)
            break;
        at += 3;
    }
    return at;
}

bool target_path_valid(struct slice path)
{
    return path.length > 0 && path.at[0] == '/' &&
           skip_path(path.at, path.at + path.length) == path.at + path.length;
}

static bool port_valid(const char *at, const char *end)
{
    unsigned port = 0;
    if (end - at > 5)
        return false;
    for (; at < end; at++) {
        if (*at < '0' || *at > '9')
            return false;
        port = port * 10 + (unsigned)(*at - '0');
    }
    return port <= 65535;
}

static bool address6_valid(const char *at, size_t length)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr address;
    if (length == 0 || length >= sizeof(text))
        return false;
    memcpy(text, at, length);
    text[length] = '\0';
    return memchr(text, '\0', length) == NULL && inet_pton(AF_INET6, text, &address) == 1;
}

bool target_authority_valid(struct slice authority)
{
    const char *at = authority.at, *end = at + authority.length;
    if (authority.length == 0)
        return false;
    if (*at == '[') {
        const char *close = memchr(at, ']', authority.length);
        if (close == NULL || !address6_valid(at + 1, (size_t)(close - at - 1)))
            return false;
        at = close + 1;
    } else {
        char before = '.'; /* an empty label is refused, one dot at the end is not */
        for (; at < end && (target_table[(uint8_t)*at] & NAME); at++) {
            if (*at == '.' && before == '.')
                return false;
            before = *at;
        }
        if (at == authority.at || at - authority.at > 254)
            return false;
    }
    return at == end || (*at == ':' && port_valid(at + 1, end));
}

static bool starts_with_nocase(const char *at, const char *end, struct slice prefix)
{
    return (size_t)(end - at) >= prefix.length &&
           slice_equal_nocase((struct slice){at, prefix.length}, prefix);
}

int target_split(struct h1_head *head)
{
    const char *at = head->target.at, *end = at + head->target.length;
    bool rootless = false;
    if (at < end && *at != '/') {
        if (head->target.length == 1 && *at == '*') {
            if (head->method_id != METHOD_OPTIONS)
                return H1_ERR_SYNTAX;
            head->path = head->target;
            head->query = (struct slice){NULL, 0};
            return 0;
        }
        if (starts_with_nocase(at, end, SLICE("http://")))
            at += 7;
        else if (starts_with_nocase(at, end, SLICE("https://")))
            at += 8;
        else
            return H1_ERR_SYNTAX;
        const char *authority = at;
        while (at < end && *at != '/' && *at != '?')
            at++;
        head->authority = (struct slice){authority, (size_t)(at - authority)};
        if (!target_authority_valid(head->authority))
            return H1_ERR_HOST;
        rootless = at == end || *at == '?';
    }
    if (at == end && !rootless)
        return H1_ERR_SYNTAX;
    const char *path = at;
    at = skip_path(at, end);
    head->path = (struct slice){path, (size_t)(at - path)};
    if (rootless) /* RFC 9112 §3.2.1 and §3.2.4 */
        head->path = at == end && head->method_id == METHOD_OPTIONS ? SLICE("*") : SLICE("/");
    head->query = (struct slice){NULL, 0};
    if (at == end)
        return 0;
    if (*at != '?')
        return H1_ERR_SYNTAX;
    const char *query = ++at;
    while (at < end && (target_table[(uint8_t)*at] & QUERY))
        at++;
    head->query = (struct slice){query, (size_t)(at - query)};
    return at == end ? 0 : H1_ERR_SYNTAX;
}
