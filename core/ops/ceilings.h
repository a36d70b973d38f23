// What a device can do at best, measured: the denominators of every speed that l4-bench prints.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace l4 {

struct Ceilings {
  double read_bytes = 0;  // a second, by kernels that only read, from memory far larger than any cache
  double flops = 0;       // a second, BF16 matrix products of random data
  double fp8_flops = 0;   // the same of E4M3 by E4M3; on the CPU, which widens FP8, those of BF16
};

// Defined by kernels/cpu: a stream of reads by all threads (best of several passes), and the backend's own product of
// 256 x 2048 by 2048 x 2048. n_threads 0: one per core. Takes less than a second.
Ceilings measure_cpu_ceilings(int n_threads);

// ---- defined by kernels/cuda; Error{device} where there is none -----------------------------------------------------

// How much is read and multiplied. Tests make it small.
struct CeilingSizes {
  uint64_t stream_bytes = uint64_t(8) << 30;  // read; at most 8/10 of what is free
  int64_t product = 8192;                     // of square products
  int n_runs = 6;                             // of each, of which the best counts
  int n_edges = 400;                          // kernels of a chain
};

// A stream of 16-byte loads by the best of several grids, and cuBLASLt's products.
Ceilings measure_cuda_ceilings(int device, const CeilingSizes& sizes = {});

struct ProductShape {
  int64_t m = 0, n = 0, k = 0;  // y [m, n] = x [m, k] W [n, k]^T
  bool fp8 = false;             // E4M3 by E4M3, BF16 out; else BF16
  std::string what;
};
struct ProductRate {
  ProductShape shape;
  double seconds = 0, flops = 0;  // a second
};

ProductRate measure_cuda_product(int device, const ProductShape& shape, const CeilingSizes& sizes = {});

struct CudaReport {
  double read_bytes = 0, copy_bytes = 0;  // a second; a copy's bytes are read and written
  int read_blocks_per_sm = 0;             // of the best grid, 512 threads each
  std::vector<ProductRate> products;
  // From the end of a kernel that does nothing to the next one's: in a graph, in a graph with programmatic launches;
  // and of a barrier of all multiprocessors, 256 threads each, within one kernel.
  double graph_edge_seconds = 0, programmatic_edge_seconds = 0, grid_sync_seconds = 0;
};
CudaReport measure_cuda_report(int device, std::span<const ProductShape> products, const CeilingSizes& sizes = {});

// As they are now; what NVML does not say is absent.
struct CudaClocks {
  std::string driver;  // "580.65.06"
  std::optional<int> sm_mhz, memory_mhz;
};
CudaClocks read_cuda_clocks(int device);

// Between two devices of this process.
struct PairReport {
  bool peer_access = false;
  double copy_bytes = 0;  // a second, one way
  struct AllReduce {
    uint64_t bytes = 0;
    double seconds = 0;  // in a graph, on data that follows from the last one
  };
  std::vector<AllReduce> all_reduce;
};
PairReport measure_cuda_pair(int first, int second, std::span<const uint64_t> all_reduce_bytes,
                             const CeilingSizes& sizes = {});

}  // namespace l4
