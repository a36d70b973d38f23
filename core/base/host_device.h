// Before plain functions that kernels call too: nvcc wants to be told.
#pragma once

#if defined(__CUDACC__)
#define L4_HOST_DEVICE __host__ __device__
#else
#define L4_HOST_DEVICE
#endif
