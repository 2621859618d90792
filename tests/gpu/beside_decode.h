// SPDX-License-Identifier: Apache-2.0
//
// `gpu_decode_loop beside`: what the mover costs a process that decodes on the same GPU, and what that costs the mover.
#pragma once

namespace kvt::beside {

/// With what follows `beside` on the command line; the program's exit code.
int run_beside(int argc, char** argv);

}  // namespace kvt::beside
