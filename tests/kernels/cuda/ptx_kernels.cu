#include "kernels/cuda/ptx_kernels.h"

#include "base/error.h"
#include "kernels/cuda/attention/fp8_codes.h"
#include "kernels/cuda/device/shared.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx/barrier.h"
#include "kernels/cuda/ptx/cluster.h"
#include "kernels/cuda/ptx/cp_async.h"
#include "kernels/cuda/ptx/ldmatrix.h"
#include "kernels/cuda/ptx/load.h"
#include "kernels/cuda/ptx/mma.h"
#include "kernels/cuda/ptx/pdl.h"
#include "kernels/cuda/ptx/setmaxnreg.h"
#include "kernels/cuda/ptx/tma.h"
#include "kernels/cuda/ptx/fp8.h"
#include "kernels/cuda/ptx/wgmma.h"

namespace l4::test {

using namespace cuda;

namespace {

// ---- cp.async

template <int kBytes>
__global__ void copy_async_kernel(const unsigned char* from, const uint8_t* valid, unsigned char* to, int n) {
  __shared__ __align__(16) unsigned char tile[128 * 16];
  const int i = int(threadIdx.x);
  if (i < n) {
    if (i % 2)
      cp_async_or_zero<kBytes>(tile + i * kBytes, from + i * kBytes, valid[i]);
    else if (valid[i])
      cp_async<kBytes>(tile + i * kBytes, from + i * kBytes);
    else
      for (int b = 0; b < kBytes; ++b) tile[i * kBytes + b] = 0;
  }
  cp_async_commit();
  cp_async_commit();  // an empty group
  cp_async_wait<1>();
  __syncthreads();
  const int j = n - 1 - i;  // another thread's
  if (j >= 0)
    for (int b = 0; b < kBytes; ++b) to[j * kBytes + b] = tile[j * kBytes + b];
}

// ---- a ring

constexpr int kStages = 3, kChunk = 1024;

__global__ void __launch_bounds__(256, 1) pipeline_kernel(const float* from, float* to, int n_chunks) {
  float* tiles = dynamic_shared<float>();  // [kStages][kChunk], then as many for results
  float* results = tiles + kStages * kChunk;
  __shared__ Mbarrier full[kStages], empty[kStages];
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(&full[s], 1);
      mbarrier_init(&empty[s], 128);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x >= 128) {
    give_registers<24>();
    if (threadIdx.x < 160 && elect_one()) {
      for (int i = 0; i < n_chunks; ++i) {
        const int s = i % kStages, round = i / kStages;
        mbarrier_wait(&empty[s], uint32_t(round + 1) % 2);
        mbarrier_arrive_expect_tx(&full[s], kChunk * sizeof(float) / 2);
        mbarrier_expect_tx(&full[s], 0);
        bulk_load(tiles + s * kChunk, from + i * kChunk, kChunk * sizeof(float) / 2, &full[s]);
        bulk_prefetch(from + i * kChunk, 16);
      }
    }
  } else {
    take_registers<240>();
    const int t = int(threadIdx.x);
    for (int i = 0; i < n_chunks; ++i) {
      const int s = i % kStages, round = i / kStages;
      while (!mbarrier_try_wait(&full[s], uint32_t(round) % 2)) {
      }
      float mine[kChunk / 2 / 128];
      for (int j = 0; j < kChunk / 2 / 128; ++j) mine[j] = 2 * tiles[s * kChunk + j * 128 + t];
      mbarrier_arrive(&empty[s]);
      if (t == 0) bulk_wait_read<0>();  // the store of the chunk before has read the results
      barrier_sync(1, 128);
      for (int j = 0; j < kChunk / 2 / 128; ++j) results[j * 128 + t] = mine[j];
      fence_proxy_async();
      barrier_sync(1, 128);
      if (t == 0) {
        bulk_store(to + i * kChunk, results, kChunk * sizeof(float) / 2);
        bulk_commit();
      }
    }
    if (t == 0) bulk_wait<0>();
  }
}

// ---- clusters

constexpr int kSharedTile = 16 * 64;

__global__ void share_tiles_kernel(const __grid_constant__ CUtensorMap map, int n_tiles, uint16_t* to,
                                   uint32_t* ranks) {
  uint16_t* tiles = dynamic_shared<uint16_t>();  // [2][16][64]
  __shared__ Mbarrier full[2], empty[2];
  const int rank = int(cluster_rank()), cluster = int(blockIdx.x / 2), n_clusters = int(gridDim.x / 2);
  const int lane = int(threadIdx.x % 32);
  if (threadIdx.x == 0) {
    for (int s = 0; s < 2; ++s) {
      mbarrier_init(&full[s], 1);
      mbarrier_init(&empty[s], 2);
    }
    mbarrier_init_fence();
    ranks[blockIdx.x] = uint32_t(rank);
  }
  cluster_arrive();
  cluster_wait();
  for (int tile = cluster, i = 0; tile < n_tiles; tile += n_clusters, ++i) {
    const int s = i % 2;
    if (threadIdx.x == 0) {
      mbarrier_wait(&empty[s], uint32_t(i / 2 + 1) % 2);
      mbarrier_arrive_expect_tx(&full[s], kSharedTile * 2);
      tensor_load_to_blocks(tiles + s * kSharedTile + rank * kSharedTile / 2, &map, &full[s], 3, 0,
                            16 * tile + 8 * rank);
    } else if (threadIdx.x >= 32) {
      mbarrier_wait(&full[s], uint32_t(i / 2) % 2);
      for (int e = lane; e < kSharedTile; e += 32)
        to[(int64_t(rank) * n_tiles + tile) * kSharedTile + e] = tiles[s * kSharedTile + e];
      __syncwarp();
      if (lane < 2) mbarrier_arrive_at(&empty[s], uint32_t(lane));
    }
  }
  cluster_arrive();
  cluster_wait();
}

// ---- tensor maps

__global__ void load_box_kernel(const __grid_constant__ CUtensorMap map, int rank, Coordinates at, Swizzle swizzle,
                                int n_rows, int row_bytes, unsigned char* to) {
  unsigned char* tile = dynamic_shared<>();
  __shared__ Mbarrier full;
  if (threadIdx.x == 0) {
    prefetch_tensor_map(&map);
    mbarrier_init(&full, 1);
    mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(&full, uint32_t(n_rows * row_bytes));
    const int* c = at.c;
    if (rank == 2) tensor_load(tile, &map, &full, c[0], c[1]);
    if (rank == 3) tensor_load_hint(tile, &map, &full, cache_evict_first(), c[0], c[1], c[2]);
    if (rank == 4) tensor_load(tile, &map, &full, c[0], c[1], c[2], c[3]);
    if (rank == 5) tensor_load(tile, &map, &full, c[0], c[1], c[2], c[3], c[4]);
  }
  mbarrier_wait(&full, 0);
  for (int i = int(threadIdx.x); i < n_rows * row_bytes; i += int(blockDim.x))
    to[i] = tile[swizzled(swizzle, uint32_t(i))];
}

// ---- fragments

__global__ void load_fragments_kernel(int n, bool transposed, const uint16_t* matrices, uint32_t* fragments) {
  __shared__ __align__(16) uint16_t tile[4 * 64];
  const int t = int(threadIdx.x);
  for (int i = t; i < n * 64; i += 32) tile[i] = matrices[i];
  __syncwarp();
  const uint16_t* row = tile + t % (8 * n) * 8;
  uint32_t r1[1], r2[2], r4[4];
  if (n == 1) {
    transposed ? ldmatrix_x1_trans(r1, row) : ldmatrix_x1(r1, row);
    fragments[t] = r1[0];
  } else if (n == 2) {
    transposed ? ldmatrix_x2_trans(r2, row) : ldmatrix_x2(r2, row);
    for (int i = 0; i < 2; ++i) fragments[i * 32 + t] = r2[i];
  } else {
    transposed ? ldmatrix_x4_trans(r4, row) : ldmatrix_x4(r4, row);
    for (int i = 0; i < 4; ++i) fragments[i * 32 + t] = r4[i];
  }
}

__global__ void store_fragments_kernel(int n, const uint32_t* fragments, uint16_t* matrices) {
  __shared__ __align__(16) uint16_t tile[4 * 64];
  const int t = int(threadIdx.x);
  uint16_t* row = tile + t % (8 * n) * 8;
  if (n == 2) {
    const uint32_t r[2] = {fragments[t], fragments[32 + t]};
    stmatrix_x2(row, r);
  } else {
    const uint32_t r[4] = {fragments[t], fragments[32 + t], fragments[64 + t], fragments[96 + t]};
    stmatrix_x4(row, r);
  }
  __syncwarp();
  for (int i = t; i < n * 64; i += 32) matrices[i] = tile[i];
}

__device__ uint32_t pair(const uint16_t* p) {
  return uint32_t(p[1]) << 16 | p[0];
}

__global__ void multiply_warp_kernel(const uint16_t* a, const uint16_t* b, float* d) {
  const int g = int(threadIdx.x) / 4, t = int(threadIdx.x) % 4;
  const uint32_t fa[4] = {pair(a + g * 16 + 2 * t), pair(a + (g + 8) * 16 + 2 * t), pair(a + g * 16 + 2 * t + 8),
                          pair(a + (g + 8) * 16 + 2 * t + 8)};
  const uint32_t fb[2] = {pair(b + g * 16 + 2 * t), pair(b + g * 16 + 2 * t + 8)};
  float fd[4];
  for (int i = 0; i < 4; ++i) fd[i] = d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  mma_m16n8k16(fd, fa, fb);
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = fd[i];
}

__global__ void multiply_bytes_kernel(const int8_t* a, const int8_t* b, int* d) {
  const int lane = int(threadIdx.x), g = lane / 4, t = lane % 4;
  auto word = [](const int8_t* at) { return *reinterpret_cast<const uint32_t*>(at); };
  uint32_t fa[4], fb[2];
  int fd[4];
  for (int i = 0; i < 4; ++i) fa[i] = word(a + (g + i % 2 * 8) * 32 + 4 * t + i / 2 * 16);
  for (int i = 0; i < 2; ++i) fb[i] = word(b + g * 32 + 4 * t + i * 16);
  for (int i = 0; i < 4; ++i) fd[i] = d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  mma_m16n8k32_s8(fd, fa, fb);
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = fd[i];
}

__global__ void expand_codes_kernel(const uint32_t* words, int n, uint32_t* even, uint32_t* odd, uint32_t* upper) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  even[i] = even_codes(words[i]);
  odd[i] = odd_codes(words[i]);
  upper[i] = times(upper_codes(words[i]), kCodesFactorPair);
}

// ---- wgmma

constexpr int kDepth = 64;

// A tile of `rows` times kDepth in k-major slabs of S bytes: where its element lies.
template <Swizzle kSwizzle>
__device__ uint32_t k_major(int rows, int row, int k) {
  constexpr int kSpan = kSwizzle == Swizzle::bytes128  ? 128
                        : kSwizzle == Swizzle::bytes64 ? 64
                        : kSwizzle == Swizzle::bytes32 ? 32
                                                       : 16;
  constexpr int kColumns = kSpan / 2;
  return uint32_t(k / kColumns * rows * kSpan) + swizzled(kSwizzle, uint32_t(row * kSpan + k % kColumns * 2));
}
template <Swizzle kSwizzle>
__device__ uint64_t k_major_descriptor(const unsigned char* tile, int rows, int k) {
  constexpr uint32_t kSpan = kSwizzle == Swizzle::bytes128  ? 128
                             : kSwizzle == Swizzle::bytes64 ? 64
                             : kSwizzle == Swizzle::bytes32 ? 32
                                                            : 16;
  const uint64_t first =
      matrix_descriptor(tile, kSwizzle, kSwizzle == Swizzle::none ? uint32_t(rows) * 16 : 16, 8 * kSpan);
  const uint32_t columns = kSpan / 2;
  return advance_descriptor(first, uint32_t(k) / columns * uint32_t(rows) * kSpan + uint32_t(k) % columns * 2);
}

template <int kN, Swizzle kSwizzle, Major kMajorOfB, bool kRegisters>
__global__ void __launch_bounds__(128, 1)
    multiply_warpgroup_kernel(const uint16_t* a, const uint16_t* b, float* out, bool accumulate) {
  constexpr uint32_t kSpan = kSwizzle == Swizzle::bytes128  ? 128
                             : kSwizzle == Swizzle::bytes64 ? 64
                             : kSwizzle == Swizzle::bytes32 ? 32
                                                            : 16;
  constexpr int kRow = kSpan / 2;
  unsigned char* tile_a = dynamic_shared<>();
  unsigned char* tile_b = tile_a + 64 * kDepth * 2;
  const int thread = int(threadIdx.x);
  for (int i = thread; i < 64 * kDepth; i += 128)
    *reinterpret_cast<uint16_t*>(tile_a + k_major<kSwizzle>(64, i / kDepth, i % kDepth)) = a[i];
  for (int i = thread; i < kN * kDepth; i += 128) {
    uint32_t at;
    if (kMajorOfB == Major::k) {
      at = k_major<kSwizzle>(kN, i / kDepth, i % kDepth);
    } else {
      const int k = i / kN, n = i % kN;
      at = uint32_t(n / kRow) * kDepth * kSpan + swizzled(kSwizzle, uint32_t(k) * kSpan + uint32_t(n % kRow) * 2);
    }
    *reinterpret_cast<uint16_t*>(tile_b + at) = b[i];
  }
  fence_proxy_async();
  __syncthreads();

  const int g = thread % 32 / 4, t = thread % 4, first_row = thread / 32 * 16;
  float d[kN / 2];
  for (int i = 0; i < kN / 2; ++i)
    d[i] = accumulate ? out[(first_row + g + i % 4 / 2 * 8) * kN + i / 4 * 8 + 2 * t + i % 2] : 0;
  uint32_t fragments[kDepth / 16][4];
  if (kRegisters)
    for (int k = 0; k < kDepth / 16; ++k)
      for (int i = 0; i < 4; ++i)
        fragments[k][i] = pair(a + (first_row + g + i % 2 * 8) * kDepth + k * 16 + 2 * t + i / 2 * 8);
  wgmma_hold(d);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < kDepth; k += 16) {
    uint64_t db;
    if (kMajorOfB == Major::k)
      db = k_major_descriptor<kSwizzle>(tile_b, kN, k);
    else if (kSwizzle == Swizzle::none)  // there the two strides change places
      db = advance_descriptor(matrix_descriptor(tile_b, kSwizzle, 8 * kSpan, kDepth * kSpan), uint32_t(k) * kSpan);
    else
      db = advance_descriptor(matrix_descriptor(tile_b, kSwizzle, kDepth * kSpan, 8 * kSpan), uint32_t(k) * kSpan);
    if constexpr (kRegisters)
      wgmma<kN, kMajorOfB>(d, fragments[k / 16], db, accumulate || k > 0);
    else
      wgmma<kN, kMajorOfB>(d, k_major_descriptor<kSwizzle>(tile_a, 64, k), db, accumulate || k > 0);
  }
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_hold(d);
  for (int i = 0; i < kN / 2; ++i) out[(first_row + g + i % 4 / 2 * 8) * kN + i / 4 * 8 + 2 * t + i % 2] = d[i];
}

template <int kN, Swizzle kSwizzle, Major kMajorOfB>
void multiply(cudaStream_t stream, const MultiplyCase& c, const uint16_t* a, const uint16_t* b, float* d) {
  const Launch l{.block = 128, .shared_bytes = (64 + kN) * kDepth * 2, .stream = stream};
  if (c.a_in_registers)
    launch(l, multiply_warpgroup_kernel<kN, kSwizzle, kMajorOfB, true>, a, b, d, c.accumulate);
  else
    launch(l, multiply_warpgroup_kernel<kN, kSwizzle, kMajorOfB, false>, a, b, d, c.accumulate);
}

// ---- E4M3

constexpr int kCodeDepth = 128;  // one row of a swizzled tile

template <int kN>
__global__ void __launch_bounds__(128, 1) multiply_e4m3_kernel(const uint8_t* a, const uint8_t* b, float* out) {
  unsigned char* tile_a = dynamic_shared<>();
  unsigned char* tile_b = tile_a + 64 * kCodeDepth;
  const int thread = int(threadIdx.x);
  for (int i = thread; i < 64 * kCodeDepth; i += 128) tile_a[swizzled(Swizzle::bytes128, uint32_t(i))] = a[i];
  for (int i = thread; i < kN * kCodeDepth; i += 128) tile_b[swizzled(Swizzle::bytes128, uint32_t(i))] = b[i];
  fence_proxy_async();
  __syncthreads();
  const uint64_t da = matrix_descriptor(tile_a, Swizzle::bytes128, 0, 8 * kCodeDepth);
  const uint64_t db = matrix_descriptor(tile_b, Swizzle::bytes128, 0, 8 * kCodeDepth);
  float d[kN / 2] = {};
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < kCodeDepth; k += 32)
    wgmma_e4m3<kN>(d, advance_descriptor(da, uint32_t(k)), advance_descriptor(db, uint32_t(k)), k > 0);
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_hold(d);
  const int row = thread / 32 * 16 + thread % 32 / 4, column = 2 * (thread % 4);
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) out[(row + i % 4 / 2 * 8) * kN + i / 4 * 8 + column + i % 2] = d[i];
}

__global__ void nearest_codes_kernel(const float* from, uint8_t* to) {
  const int i = 2 * int(threadIdx.x);
  const uint16_t pair = fp8_pair(from[i], from[i + 1]);
  to[i] = uint8_t(pair), to[i + 1] = uint8_t(pair >> 8);
}

// ---- barriers, order, loads

__global__ void exchange_kernel(int* out) {
  __shared__ int said[128];
  const int t = int(threadIdx.x);
  said[t] = t + 1;
  if (t < 64) {
    barrier_sync(1, 128);
    out[t] = said[t + 64];
    barrier_arrive(2, 128);
  } else {
    barrier_arrive(1, 128);
    barrier_sync(2, 128);  // the first half has read
    out[t] = said[t - 64];
  }
}

__global__ void arrive_kernel(uint32_t* counter, uint32_t* out) {
  uint32_t n = 0;
  if (elect_one()) {
    const uint32_t before = fetch_add_gpu(counter, 1);
    add_release_gpu(counter, 1);
    add_release_sys(counter, 1);
    n = 1000 +
        (load_acquire_gpu(counter) >= before + 3 && load_acquire_sys(counter) >= 3 && load_relaxed_sys(counter) >= 3);
  }
  for (int offset = 16; offset > 0; offset /= 2) n += __shfl_xor_sync(0xffffffffu, n, offset);
  if (threadIdx.x == 0) {
    store_relaxed_sys(out + 3 * blockIdx.x, n);
    store_release_gpu(out + 3 * blockIdx.x + 1, n + 1);
    store_release_sys(out + 3 * blockIdx.x + 2, n + 2);
  }
}

__global__ void copy_16_kernel(const uint4* from, uint4* to, int n) {
  wait_for_predecessor();
  let_successor_start();
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  const uint4 v = i % 3 == 0   ? load_once16(from + i)
                  : i % 3 == 1 ? load_once16_ahead(from + i)
                               : load_volatile16(from + i);
  if (i % 2)
    to[i] = v;
  else
    store_volatile16(to + i, v);
}

}  // namespace

void copy_async(cudaStream_t stream, int n_bytes, const void* from, const uint8_t* valid, void* to, int n) {
  const Launch l{.block = 128, .stream = stream};
  auto f = static_cast<const unsigned char*>(from);
  auto t = static_cast<unsigned char*>(to);
  if (n_bytes == 4) launch(l, copy_async_kernel<4>, f, valid, t, n);
  if (n_bytes == 8) launch(l, copy_async_kernel<8>, f, valid, t, n);
  if (n_bytes == 16) launch(l, copy_async_kernel<16>, f, valid, t, n);
}

void pipeline(cudaStream_t stream, const float* from, float* to, int n_chunks) {
  launch({.block = 256, .shared_bytes = (kStages + 1) * kChunk * sizeof(float), .stream = stream}, pipeline_kernel,
         from, to, n_chunks);
}

void load_box(cudaStream_t stream, const CUtensorMap& map, int rank, Coordinates at, Swizzle swizzle, int n_rows,
              int row_bytes, void* to) {
  launch({.block = 64, .shared_bytes = size_t(n_rows * row_bytes), .stream = stream}, load_box_kernel, map, rank, at,
         swizzle, n_rows, row_bytes, static_cast<unsigned char*>(to));
}
void load_fragments(cudaStream_t stream, int n_matrices, bool transposed, const uint16_t* matrices,
                    uint32_t* fragments) {
  launch({.block = 32, .stream = stream}, load_fragments_kernel, n_matrices, transposed, matrices, fragments);
}
void store_fragments(cudaStream_t stream, int n_matrices, const uint32_t* fragments, uint16_t* matrices) {
  launch({.block = 32, .stream = stream}, store_fragments_kernel, n_matrices, fragments, matrices);
}
void multiply_warp(cudaStream_t stream, const uint16_t* a, const uint16_t* b, float* d) {
  launch({.block = 32, .stream = stream}, multiply_warp_kernel, a, b, d);
}

void multiply_bytes(cudaStream_t stream, const int8_t* a, const int8_t* b, int* d) {
  launch({.block = 32, .stream = stream}, multiply_bytes_kernel, a, b, d);
}

void expand_codes(cudaStream_t stream, const uint32_t* words, int n, uint32_t* even, uint32_t* odd, uint32_t* upper) {
  launch({.grid = unsigned((n + 63) / 64), .block = 64, .stream = stream}, expand_codes_kernel, words, n, even, odd, upper);
}

void multiply_warpgroup(cudaStream_t stream, const MultiplyCase& c, const uint16_t* a, const uint16_t* b, float* d) {
#define L4_CASE(n_, swizzle_, major_)                                                              \
  if (c.n == n_ && c.swizzle == Swizzle::swizzle_ && c.b_mn_major == (Major::major_ == Major::mn)) \
    return multiply<n_, Swizzle::swizzle_, Major::major_>(stream, c, a, b, d);
  L4_CASE(8, bytes128, k)
  L4_CASE(16, bytes128, k)
  L4_CASE(32, bytes128, k)
  L4_CASE(48, bytes128, k)
  L4_CASE(64, bytes128, k)
  L4_CASE(80, bytes128, k)
  L4_CASE(96, bytes128, k)
  L4_CASE(112, bytes128, k)
  L4_CASE(128, bytes128, k)
  L4_CASE(144, bytes128, k)
  L4_CASE(160, bytes128, k)
  L4_CASE(176, bytes128, k)
  L4_CASE(192, bytes128, k)
  L4_CASE(208, bytes128, k)
  L4_CASE(224, bytes128, k)
  L4_CASE(240, bytes128, k)
  L4_CASE(256, bytes128, k)
  L4_CASE(64, bytes128, mn)
  L4_CASE(128, bytes128, mn)
  L4_CASE(64, bytes64, k)
  L4_CASE(64, bytes64, mn)
  L4_CASE(64, bytes32, k)
  L4_CASE(64, bytes32, mn)
  L4_CASE(64, none, k)
  L4_CASE(64, none, mn)
#undef L4_CASE
  L4_CHECK(false, "no such case");
}

void share_tiles(cudaStream_t stream, const CUtensorMap& map, int n_tiles, int n_clusters, uint16_t* to,
                 uint32_t* ranks) {
  launch({.grid = unsigned(2 * n_clusters),
          .block = 64,
          .shared_bytes = 2 * kSharedTile * 2,
          .stream = stream,
          .cluster = 2},
         share_tiles_kernel, map, n_tiles, to, ranks);
}
void exchange(cudaStream_t stream, int* out) {
  launch({.block = 128, .stream = stream}, exchange_kernel, out);
}
void arrive(cudaStream_t stream, uint32_t* counter, uint32_t* out, int n_blocks) {
  launch({.grid = unsigned(n_blocks), .block = 32, .stream = stream}, arrive_kernel, counter, out);
}
void copy_16(cudaStream_t stream, const void* from, void* to, int n) {
  launch({.grid = unsigned((n + 63) / 64), .block = 64, .stream = stream, .programmatic = true}, copy_16_kernel,
         static_cast<const uint4*>(from), static_cast<uint4*>(to), n);
}

void multiply_e4m3(cudaStream_t stream, int n, const uint8_t* a, const uint8_t* b, float* d) {
  const Launch l{.block = 128, .shared_bytes = size_t(64 + n) * kCodeDepth, .stream = stream};
  switch (n) {
#define L4_CASE(n_) \
  case n_:          \
    return launch(l, multiply_e4m3_kernel<n_>, a, b, d);
    L4_CASE(8)
    L4_CASE(16)
    L4_CASE(32)
    L4_CASE(48)
    L4_CASE(64)
    L4_CASE(80)
    L4_CASE(96)
    L4_CASE(112)
    L4_CASE(128)
#undef L4_CASE
  }
  L4_CHECK(false, "no such case");
}
void nearest_codes(cudaStream_t stream, const float* from, uint8_t* to, int n_codes) {
  launch({.block = unsigned(n_codes / 2), .stream = stream}, nearest_codes_kernel, from, to);
}

}  // namespace l4::test
