# SPDX-License-Identifier: Apache-2.0
# KVT_HAVE_CUDA: the CUDA tier is built. It needs cuda.h at build time; the driver itself is always loaded at run time.
# KVT_NVCC: the compiler of the device code; without it there are no kernels, and what needs them says so.
option(KVT_CUDA "Build the CUDA tier where the CUDA headers are" ON)
find_path(KVT_CUDA_INCLUDE cuda.h HINTS $ENV{CUDA_HOME}/include /usr/local/cuda/include)
find_program(KVT_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
if(KVT_CUDA AND KVT_CUDA_INCLUDE)
  set(KVT_HAVE_CUDA ON)
  message(STATUS "CUDA headers: found in ${KVT_CUDA_INCLUDE}; nvcc: ${KVT_NVCC}")
else()
  set(KVT_HAVE_CUDA OFF)
  message(STATUS "CUDA headers: not found, or not wanted; a build without the CUDA tier (fast tiers are emulated)")
endif()
target_compile_definitions(kvt_options INTERFACE KVT_HAVE_CUDA_HEADERS=$<BOOL:${KVT_HAVE_CUDA}>)

# The GPUs that device code is compiled for; a GPU after these runs what is compiled for the last of them.
set(KVT_CUDA_ARCHITECTURES 80 90 100 CACHE STRING "Compute capabilities of device code, without the dot")

# kvt_device_code(NAME SOURCE file.cu [DEPENDS headers]): makes NAME.fatbin and a C++ source that has its bytes as
# `extern const unsigned char NAME[]`, `extern const size_t NAME_bytes`; the source's path is in NAME_SOURCE.
function(kvt_device_code NAME)
  cmake_parse_arguments(PARSE_ARGV 1 D "" "SOURCE" "DEPENDS")
  set(fatbin ${CMAKE_CURRENT_BINARY_DIR}/${NAME}.fatbin)
  set(embedded ${CMAKE_CURRENT_BINARY_DIR}/${NAME}.cc)
  set(targets)
  foreach(architecture IN LISTS KVT_CUDA_ARCHITECTURES)
    list(APPEND targets -gencode arch=compute_${architecture},code=sm_${architecture})
    set(last ${architecture})
  endforeach()
  list(APPEND targets -gencode arch=compute_${last},code=compute_${last})
  set(source ${CMAKE_CURRENT_SOURCE_DIR}/${D_SOURCE})
  set(lines -lineinfo)
  if(KVT_PACKAGES) # they name the folder of the sources
    set(lines)
  endif()
  add_custom_command(OUTPUT ${fatbin}
    COMMAND ${KVT_NVCC} -fatbin -std=c++20 -O3 ${lines} --threads 2 ${targets} -I ${PROJECT_SOURCE_DIR}
      -I ${PROJECT_SOURCE_DIR}/libclient/include -o ${fatbin} ${source}
    DEPENDS ${source} ${D_DEPENDS} VERBATIM)
  add_custom_command(OUTPUT ${embedded}
    COMMAND ${CMAKE_COMMAND} -D INPUT=${fatbin} -D OUTPUT=${embedded} -D NAME=${NAME}
      -P ${PROJECT_SOURCE_DIR}/tools/cmake/embed.cmake
    DEPENDS ${fatbin} ${PROJECT_SOURCE_DIR}/tools/cmake/embed.cmake VERBATIM)
  set(${NAME}_SOURCE ${embedded} PARENT_SCOPE)
endfunction()
