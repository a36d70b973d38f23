// The parts of the vision tower that are neither linears, norms nor attention (contracts: kernels/cpu/ops.h). One
// thread a piece of the output. Compiled without contraction to fused multiply-adds.
#include "kernels/cuda/device/piece.h"
#include "kernels/cuda/one_thread_each.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/ptx/pdl.h"

namespace l4::cuda {

namespace {
__device__ inline unsigned thread_number() {  // 32 bits: divisions are dear
  return blockIdx.x * kThreadsEach + threadIdx.x;
}

__global__ void __launch_bounds__(kThreadsEach)
    cut_patches_kernel(const bf16* pixels, int channels, int side, int p, bf16* patches, int64_t n_elements) {
  wait_for_predecessor();
  let_successor_start();
  const unsigned i = thread_number();
  if (i >= n_elements) return;
  const unsigned width = unsigned(channels * p * p), grid = unsigned(side / p), patch = i / width;
  const int within = int(i % width), channel = within / (p * p), dy = within / p % p, dx = within % p;
  const int64_t tile = patch / (grid * grid);
  const int row = int(patch / grid % grid), column = int(patch % grid);
  patches[i] = pixels[((tile * channels + channel) * side + row * p + dy) * side + column * p + dx];
}

template <class A, int n>
__global__ void __launch_bounds__(kThreadsEach)
    add_positions_kernel(const A* patches, const A* class_embedding, const A* positions, A* x, int s, int d,
                         int64_t n_elements) {
  wait_for_predecessor();
  let_successor_start();
  const unsigned piece = thread_number(), row = piece / unsigned(d / n);
  const int64_t i = int64_t(piece) * n, tile = row / unsigned(s);
  if (i >= n_elements) return;
  const int token = int(row % unsigned(s)), j = int(piece % unsigned(d / n)) * n;
  float v[n], position[n];
  load((token < s - 1 ? patches + (tile * (s - 1) + token) * d : class_embedding) + j, v);
  load(positions + int64_t(token) * d + j, position);
#pragma unroll
  for (int k = 0; k < n; ++k) v[k] += position[k];
  store(x + i, v);
}

// Pieces of n >= 2 elements, so that a thread has whole pairs; hd is a multiple of n.
template <class A, int n>
__global__ void __launch_bounds__(kThreadsEach)
    split_vision_qkv_kernel(const A* qkv, const float* rope, A* q, A* k, A* v, int s, int hd, int d,
                            int64_t n_elements) {
  wait_for_predecessor();
  let_successor_start();
  const unsigned piece = thread_number(), third = piece / unsigned(d / n), row = third / 3;
  const int64_t i = int64_t(piece) * n;
  if (i >= n_elements) return;
  const int part = int(third % 3), j = int(piece % unsigned(d / n)) * n;
  float x[n];
  load(qkv + i, x);
  if (part < 2) {  // v is not rotated
    float table[n];
    load(rope + int64_t(row % unsigned(s)) * hd + j % hd, table);
#pragma unroll
    for (int e = 0; e < n; e += 2) {
      const float a = x[e], b = x[e + 1], cosine = table[e], sine = table[e + 1];
      x[e] = a * cosine - b * sine;
      x[e + 1] = a * sine + b * cosine;
    }
  }
  store((part == 0 ? q : part == 1 ? k : v) + int64_t(row) * d + j, x);
}

// Token (s r + dy, s c + dx) to place (dy, dx) of row (r, c); U: what a thread copies, n of them a token.
template <class U>
__global__ void __launch_bounds__(kThreadsEach)
    pixel_shuffle_kernel(const U* in, U* out, int grid, int shuffle, int n, int64_t n_units) {
  wait_for_predecessor();
  let_successor_start();
  const unsigned i = thread_number(), side = unsigned(grid / shuffle), s = unsigned(shuffle);
  if (i >= n_units) return;
  const unsigned place = i / unsigned(n), row = place / (s * s);
  const int64_t tile = row / (side * side);
  const int dx = int(place % s), dy = int(place / s % s), c = int(row % side), r = int(row / side % side);
  const int64_t token = tile * (grid * grid + 1) + (shuffle * r + dy) * grid + shuffle * c + dx;
  out[i] = in[token * n + i % unsigned(n)];
}
}  // namespace

void cut_patches(const OpContext& ctx, const View& pixels, int64_t patch_size, const View& patches) {
  if (ctx.measuring()) return;
  const int64_t channels = pixels.shape[1], side = pixels.shape[2], p = patch_size;
  L4_CHECK(pixels.shape[3] == side && side % p == 0 && patches.cols() == channels * p * p &&
           patches.elements() == pixels.elements());
  launch(one_thread_each(ctx, patches.elements()), cut_patches_kernel, data<bf16>(pixels), int(channels), int(side),
         int(p), data<bf16>(patches), patches.elements());
}

void add_positions(const OpContext& ctx, const View& patches, const View& class_embedding,
                   const View& position_embedding, const View& x) {
  if (ctx.measuring()) return;
  const int64_t s = position_embedding.rows(), d = position_embedding.cols();
  with_pieces(x.dtype, d, {patches, class_embedding, position_embedding, x}, [&](auto a, auto n) {
    using A = decltype(a);
    launch(one_thread_each(ctx, x.elements() / n), add_positions_kernel<A, n>, data<A>(patches),
           data<A>(class_embedding), data<A>(position_embedding), data<A>(x), int(s), int(d), x.elements());
  });
}

void split_vision_qkv(const OpContext& ctx, const VisionQkvArgs& args, const float* rope, const View& qkv) {
  if (ctx.measuring()) return;
  const int64_t s = args.q.shape[1], n_heads = args.q.shape[2], hd = args.q.shape[3], d = n_heads * hd;
  L4_CHECK(qkv.cols() == 3 * d && hd % 2 == 0);
  with_pieces(qkv.dtype, hd, {qkv, args.q, args.k, args.v}, [&](auto a, auto n) {
    using A = decltype(a);
    constexpr int kStep = n > 2 ? n : 2;
    launch(one_thread_each(ctx, qkv.elements() / kStep), split_vision_qkv_kernel<A, kStep>, data<A>(qkv), rope,
           data<A>(args.q), data<A>(args.k), data<A>(args.v), int(s), int(hd), int(d), qkv.elements());
  });
}

void pixel_shuffle(const OpContext& ctx, const View& in, int64_t grid, int64_t shuffle, const View& out) {
  if (ctx.measuring()) return;
  const int64_t d = in.shape[2];
  L4_CHECK(grid % shuffle == 0 && in.shape[1] == grid * grid + 1 && in.dtype == out.dtype &&
           out.elements() == in.shape[0] * grid * grid * d);
  const int64_t row_bytes = d * int64_t(dtype_bytes(in.dtype));
  auto copy = [&](auto unit, int64_t n) {
    using U = decltype(unit);
    const int64_t n_units = int64_t(out.bytes()) / int64_t(sizeof(U));
    launch(one_thread_each(ctx, n_units), pixel_shuffle_kernel<U>, static_cast<const U*>(in.data),
           static_cast<U*>(out.data), int(grid), int(shuffle), int(n), n_units);
  };
  if ((row_bytes | int64_t(in.data) | int64_t(out.data)) % 16 == 0)
    copy(uint4{}, row_bytes / 16);
  else
    with_activation(in.dtype, [&](auto a) { copy(a, d); });
}

}  // namespace l4::cuda
