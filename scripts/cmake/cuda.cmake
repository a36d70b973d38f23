# Decides whether the CUDA backend is built. Sets L4_WITH_CUDA and, where it is on, the target l4_cuda.
#
# One binary has to run on GPU hosts and on machines with no NVIDIA driver, cuBLAS or NCCL. So none of them is a needed
# library of it: the CUDA runtime is linked statically (it opens the driver itself, when first called), and cuBLASLt and
# NCCL are opened at run time through the tables of kernels/cuda/libraries.h. Only their headers are needed here.
set(L4_WITH_CUDA OFF)
if(NOT L4_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "L4_CUDA is '${L4_CUDA}': expected AUTO, ON or OFF")
endif()

if(NOT L4_CUDA STREQUAL "OFF")
  find_program(L4_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin PATHS /usr/local/cuda/bin)
  set(missing "")
  if(NOT L4_NVCC)
    set(missing "nvcc is not on PATH nor in /usr/local/cuda/bin")
  else()
    execute_process(COMMAND ${L4_NVCC} --version OUTPUT_VARIABLE nvcc_text ERROR_QUIET)
    string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" _ "${nvcc_text}")
    set(nvcc_version "${CMAKE_MATCH_1}")
    get_filename_component(nvcc_real "${L4_NVCC}" REALPATH)
    get_filename_component(cuda_root "${nvcc_real}" DIRECTORY)
    get_filename_component(cuda_root "${cuda_root}" DIRECTORY)
    find_path(L4_CUBLAS_INCLUDE cublasLt.h HINTS ${cuda_root}/include ${cuda_root}/targets/x86_64-linux/include)
    find_path(L4_NCCL_INCLUDE nccl.h HINTS ${cuda_root}/include ENV NCCL_HOME PATH_SUFFIXES include)
    if(NOT nvcc_version OR nvcc_version VERSION_LESS 13.0)
      set(missing "${L4_NVCC} is version '${nvcc_version}', 13.0 or newer is needed")
    elseif(NOT L4_CUBLAS_INCLUDE)
      set(missing "cublasLt.h is not in ${cuda_root}/include")
    elseif(NOT L4_NCCL_INCLUDE)
      set(missing "nccl.h is not found")
    endif()
  endif()

  if(NOT missing)
    set(L4_WITH_CUDA ON)
    message(STATUS "CUDA backend: on (nvcc ${nvcc_version}, ${L4_NVCC}; code for sm_90a)")
  elseif(L4_CUDA STREQUAL "ON")
    message(FATAL_ERROR "L4_CUDA=ON, but ${missing}")
  else()
    message(STATUS "CUDA backend: off, a CPU build (${missing})")
  endif()
else()
  message(STATUS "CUDA backend: off, a CPU build (L4_CUDA=OFF)")
endif()

if(L4_WITH_CUDA)
  set(CMAKE_CUDA_COMPILER ${L4_NVCC})
  set(CMAKE_CUDA_ARCHITECTURES OFF)  # said below: wgmma and setmaxnreg need 90a, which is for Hopper alone
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  enable_language(CUDA)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")  # CMake 3.25 does not know that nvcc can
  find_package(CUDAToolkit REQUIRED)
  add_library(l4_cuda INTERFACE)
  target_compile_options(l4_cuda INTERFACE
    "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-gencode=arch=compute_90a,code=sm_90a>"
    "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-Xcompiler=-Wall,-Wextra;-lineinfo>"
    "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-ffile-prefix-map=${PROJECT_SOURCE_DIR}/=>")
  if(L4_WERROR)
    target_compile_options(l4_cuda INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;-Xcompiler=-Werror>")
  endif()
  target_include_directories(l4_cuda SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS} ${L4_CUBLAS_INCLUDE} ${L4_NCCL_INCLUDE})
  target_link_libraries(l4_cuda INTERFACE CUDA::cudart_static)
endif()
