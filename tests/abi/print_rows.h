/* SPDX-License-Identifier: Apache-2.0
 *
 * Makes text of the rows that rows.awk finds in headers: values of constants, offset, size and type of each field.
 * C11 and C++: both must print the same. One thread; for the two programs beside this file.
 */
#ifndef KVT_TESTS_ABI_PRINT_ROWS_H
#define KVT_TESTS_ABI_PRINT_ROWS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Bytes of the struct's fields so far; what is missing at its end is padding. */
static size_t field_bytes;
/* Structs that have padding: bytes that nobody writes. */
static int padded_structs;

static inline void print_constant(const char *name, unsigned long long value) {
    printf(value < 1000000 ? "%s = %llu\n" : "%s = 0x%llx\n", name, value);
}

static inline void print_field(const char *name, const char *type, size_t offset, size_t bytes) {
    printf("  %8zu %8zu  %s %s\n", offset, bytes, name, type);
    field_bytes += bytes;
}

static inline void print_end(size_t bytes) {
    if (field_bytes != bytes) {
        printf("  padding: %zu bytes\n", bytes - field_bytes);
        ++padded_structs;
    }
}

#define HEADING(file) printf("== %s\n", file);
#define TEXT(text) printf("%s\n", text);
#define CONSTANT(name) print_constant(#name, (unsigned long long)(name));
#define ENUM(name) printf("enum %s\n", #name);
#define ENUMERATOR(name) printf("  %s = %d\n", #name, (int)(name));
#define STRUCT(name)                                                                              \
    printf("struct %s: %zu bytes; offset, bytes, name, type\n", #name, sizeof(struct name)); \
    field_bytes = 0;
#define FIELD(name, field, type) print_field(#field, type, offsetof(struct name, field), sizeof(((struct name *)0)->field));
#define END(name) print_end(sizeof(struct name));

#endif
