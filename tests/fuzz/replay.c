/* Gives each file named on the command line to a fuzz target, without libFuzzer.
 *
 * So the committed corpus is replayed with the compiler that every machine has; run.py uses clang
 * only to search for new inputs. Linked with one fuzz_NAME.c. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0)
        return -1;
    long size = ftell(file);
    rewind(file);
    /* Exactly as long as the input: a read past its end is an error of the sanitizer's. */
    uint8_t *data = malloc(size > 0 ? (size_t)size : 1);
    int result = -1;
    if (data && size >= 0 && fread(data, 1, (size_t)size, file) == (size_t)size) {
        LLVMFuzzerTestOneInput(data, (size_t)size);
        result = 0;
    }
    free(data);
    fclose(file);
    return result;
}

int main(int count, char **paths)
{
    for (int i = 1; i < count; i++) {
        if (replay(paths[i]) != 0) {
            fprintf(stderr, "replay: cannot read %s\n", paths[i]);
            return 2;
        }
    }
    printf("replayed %d inputs\n", count - 1);
    return 0;
}
