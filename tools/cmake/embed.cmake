# SPDX-License-Identifier: Apache-2.0
# cmake -D INPUT=file -D OUTPUT=file.cc -D NAME=symbol -P embed.cmake: an object's bytes through the assembler, which
# takes megabytes where a C++ array of them would take minutes.
file(WRITE ${OUTPUT} "// Made from ${NAME}.fatbin.
#include <cstddef>
asm(\".section .rodata\\n.balign 64\\n.global ${NAME}\\n.hidden ${NAME}\\n${NAME}:\\n.incbin \\\"${INPUT}\\\"\\n${NAME}_end:\\n\"
    \".balign 8\\n.global ${NAME}_bytes\\n.hidden ${NAME}_bytes\\n${NAME}_bytes: .quad ${NAME}_end - ${NAME}\\n.previous\\n\");
")
