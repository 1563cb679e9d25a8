/* Exact paths, prefixes by path element as Kubernetes' Ingress v1 defines them, prefixes by text.
 *
 * Called by paths.c alone. */
#include "match/path.h"

static bool prefix(struct slice pattern, struct slice path)
{
    /* "/foo/" is the same prefix as "/foo": the one slash at its end is not an element. */
    if (pattern.length > 0 && pattern.at[pattern.length - 1] == '/')
        pattern.length--;
    if (path.length < pattern.length || memcmp(path.at, pattern.at, pattern.length) != 0)
        return false;
    if (path.length == pattern.length)
        return true;
    return path.at[pattern.length] == '/';
}

bool path_match(uint32_t type, struct slice pattern, struct slice path)
{
    if (path.length == 0)
        return false;
    if (type == EDGE_PATH_EXACT)
        return slice_equal(pattern, path);
    if (type == EDGE_PATH_STRING_PREFIX)
        return path.length >= pattern.length && memcmp(path.at, pattern.at, pattern.length) == 0;
    return type == EDGE_PATH_PREFIX && prefix(pattern, path);
}
