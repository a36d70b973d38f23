// What a device can do at best, measured: the denominators of every speed that l4-bench prints.
#pragma once

#include <cstdint>

namespace l4 {

struct Ceilings {
  double read_bytes = 0;  // a second, by kernels that only read, from memory far larger than any cache
  double flops = 0;       // a second, BF16 matrix products of random data
};

// Defined by kernels/cpu: a stream of reads by all threads (best of several passes), and the backend's own product of
// 256 x 2048 by 2048 x 2048. n_threads 0: one per core. Takes less than a second.
Ceilings measure_cpu_ceilings(int n_threads);

}  // namespace l4
