/* Texts of the error codes, and filling a struct edge_error.
 *
 * Called from everywhere in C and through cffi; never allocates, never logs. The texts stand in
 * the order of enum edge_status: tests/csrc/base/test_error.c compares. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const texts[] = {
    "ok",
    "out of memory",
    "a count or size is over its limit",
    "a field has a value that it must not have",
    "fewer bytes than promised",
    "the checksum does not fit the bytes",
    "made by another version",
    "names something that is not there",
    "a section is unknown, missing or misplaced",
    "a key or certificate is missing or unusable",
    "a patch for another version",
    "a system call failed",
    "the sandbox could not be entered",
};

uint32_t edge_abi_version(void)
{
    return EDGE_ABI_VERSION;
}

const char *edge_strerror(int code)
{
    if (code > 0 || code <= -(int)(sizeof(texts) / sizeof(texts[0])))
        return "unknown error";
    return texts[-code];
}

static void fill(struct edge_error *err, int code, uint32_t section, uint32_t index,
                 const char *field)
{
    *err = (struct edge_error){.code = code, .section = section, .index = index};
    snprintf(err->field, sizeof(err->field), "%s", field);
}

int error_set(struct edge_error *err, int code, const char *reason, ...)
{
    if (err != NULL) {
        va_list arguments;
        fill(err, code, 0, 0, "");
        va_start(arguments, reason);
        vsnprintf(err->reason, sizeof(err->reason), reason, arguments);
        va_end(arguments);
    }
    return code;
}

int error_at(struct edge_error *err, int code, uint32_t section, uint32_t index, const char *field,
             const char *reason, ...)
{
    if (err != NULL) {
        va_list arguments;
        fill(err, code, section, index, field);
        va_start(arguments, reason);
        vsnprintf(err->reason, sizeof(err->reason), reason, arguments);
        va_end(arguments);
    }
    return code;
}

int error_system(struct edge_error *err, int sys_errno, const char *what)
{
    if (err != NULL) {
        fill(err, EDGE_ERR_SYSTEM, 0, 0, "");
        err->sys_errno = sys_errno;
        snprintf(err->reason, sizeof(err->reason), "%s: %s", what, strerror(sys_errno));
    }
    return EDGE_ERR_SYSTEM;
}
