/* SPDX-License-Identifier: Apache-2.0
 *
 * The program of docs/integrate.md for a GPU, on the stand-in for its driver: a page of it is published and read.
 */
#include <stdio.h>

#include "integrate_gpu.inc"

int main(void) {
    kvt_frame frame = KVT_NO_FRAME;
    const kvt_key key = {.lo = 5, .hi = 6};
    const int code = run_gpu_engine(NULL, key, &frame);
    if (code != KVT_OK || frame == KVT_NO_FRAME) {
        fprintf(stderr, "gpu: %d: %s\n", code, kvt_last_error());
        return 1;
    }
    return 0;
}
