# SPDX-License-Identifier: Apache-2.0
# The CUDA headers are optional: with them the CUDA tier can be built; the driver itself is always loaded at run time.
find_path(KVT_CUDA_INCLUDE cuda.h HINTS $ENV{CUDA_HOME}/include /usr/local/cuda/include)
if(KVT_CUDA_INCLUDE)
  message(STATUS "CUDA headers: found in ${KVT_CUDA_INCLUDE}")
  target_compile_definitions(kvt_options INTERFACE KVT_HAVE_CUDA_HEADERS=1)
else()
  message(STATUS "CUDA headers: not found; host-only build (fast tiers are emulated)")
  target_compile_definitions(kvt_options INTERFACE KVT_HAVE_CUDA_HEADERS=0)
endif()
