/* SPDX-License-Identifier: Apache-2.0
 *
 * Prints the shared-memory layout and the messages of attach.sock. Compiled as C11 and, copied, as C++.
 */
#include "shm/abi/layout.h"
#include "shm/abi/limits.h"
#include "shm/abi/wire.h"
#include "tests/abi/print_rows.h"

int main(void) {
#include "layout_rows.inc"
    if (padded_structs != 0) fprintf(stderr, "%d structs have padding: bytes that are shared and never written\n", padded_structs);
    return padded_structs != 0;
}
