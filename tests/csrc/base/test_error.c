/* Texts of error codes, and filling struct edge_error. */
#include "base/error.c"

#include "tap.h"

int main(void)
{
    struct edge_error err;
    char longer[300];

    IS(sizeof(texts) / sizeof(texts[0]), -EDGE_ERR_SANDBOX + 1, "one text for each code");
    IS_TEXT(edge_strerror(0), 2, "ok", "0 is ok");
    for (int code = 0; code >= EDGE_ERR_SANDBOX; code--)
        OK(edge_strerror(code)[0] != '\0', "code %d has a text", code);
    OK(strcmp(edge_strerror(EDGE_ERR_CHECKSUM), "the checksum does not fit the bytes") == 0,
       "order of the texts");
    OK(strstr(edge_strerror(EDGE_ERR_SANDBOX), "sandbox") != NULL, "last text");
    OK(strcmp(edge_strerror(-1000), "unknown error") == 0, "far below");
    OK(strcmp(edge_strerror(1), "unknown error") == 0, "above");

    IS(error_at(&err, EDGE_ERR_LIMIT, 6, 3, "path", "%d is too long", 9), EDGE_ERR_LIMIT, "code");
    IS(err.section, 6, "section");
    IS(err.index, 3, "index");
    OK(strcmp(err.field, "path") == 0 && strcmp(err.reason, "9 is too long") == 0, "texts");
    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    error_at(&err, EDGE_ERR_LIMIT, 0, 0, longer, "%s", longer);
    IS(strlen(err.field), sizeof(err.field) - 1, "a long field is cut");
    IS(strlen(err.reason), sizeof(err.reason) - 1, "a long reason is cut");
    IS(error_system(&err, 2, "open"), EDGE_ERR_SYSTEM, "system");
    IS(err.sys_errno, 2, "errno kept");
    IS(error_set(NULL, EDGE_ERR_BASE, "nobody asks"), EDGE_ERR_BASE, "without a struct");
    return tap_done();
}
