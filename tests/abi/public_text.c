/* SPDX-License-Identifier: Apache-2.0
 *
 * Prints the public C interface: constants, structs, functions. Links every function, so each is exported. Compiled
 * as C11 and, copied, as C++17.
 */
#include <kvtier/kvtier.h>

#include "tests/abi/print_rows.h"

typedef void (*any_function)(void);
static volatile any_function last_function; /* volatile: the linker has to find each one */

#define FUNCTION(name, declaration)           \
    last_function = (any_function)(name); \
    printf("%s\n", declaration);

int main(void) {
#include "public_rows.inc"
    return 0;
}
