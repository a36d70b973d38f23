// The parts of the vision tower that are neither linears, norms nor attention (llama4-spec 3).
#include <cstring>

#include "kernels/cpu/ops.h"

namespace l4::cpu {

void cut_patches(const OpContext& ctx, const View& pixels, int64_t patch_size, const View& patches) {
  if (ctx.measuring()) return;
  const int64_t channels = pixels.shape[1], side = pixels.shape[2], p = patch_size, grid = side / p;
  L4_CHECK(pixels.shape[3] == side && grid * p == side && patches.cols() == channels * p * p);
  ctx.pool.parallel_for(patches.rows(), row_grain(patches.cols()), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t tile = i / (grid * grid), row = i / grid % grid, column = i % grid;
      BFloat16* to = patches.bf16() + i * patches.cols();
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t y = 0; y < p; ++y, to += p) {
          const int64_t line = (tile * channels + c) * side + row * p + y;
          std::memcpy(to, pixels.bf16() + line * side + column * p, size_t(p) * sizeof(BFloat16));
        }
    }
  });
}

void add_positions(const OpContext& ctx, const View& patches, const View& class_embedding,
                   const View& position_embedding, const View& x) {
  if (ctx.measuring()) return;
  const int64_t s = position_embedding.rows(), d = position_embedding.cols();
  with_activation(x.dtype, [&](auto tag) {
    using A = decltype(tag);
    ctx.pool.parallel_for(x.elements() / d, row_grain(d), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t tile = i / s, token = i % s;
        const A* from = token < s - 1 ? data<A>(patches) + (tile * (s - 1) + token) * d : data<A>(class_embedding);
        const A* position = data<A>(position_embedding) + token * d;
        A* to = data<A>(x) + i * d;
        for (int64_t j = 0; j < d; ++j) to[j] = rounded<A>(get(from[j]) + get(position[j]));
      }
    });
  });
}

void split_vision_qkv(const OpContext& ctx, const VisionQkvArgs& args, const View& qkv) {
  if (ctx.measuring()) return;
  const int64_t s = args.q.shape[1], n_heads = args.q.shape[2], hd = args.q.shape[3], d = n_heads * hd;
  L4_CHECK(qkv.cols() == 3 * d && args.rope.elements() == s * hd);
  with_activation(qkv.dtype, [&](auto tag) {
    using A = decltype(tag);
    ctx.pool.parallel_for(qkv.rows(), row_grain(6 * d), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const A* from = data<A>(qkv) + i * 3 * d;
        const View* to[] = {&args.q, &args.k, &args.v};
        for (int part = 0; part < 3; ++part) {
          A* row = data<A>(*to[part]) + i * d;
          std::memcpy(row, from + part * d, size_t(d) * sizeof(A));
          if (part == 2) break;  // v is not rotated
          for (int64_t h = 0; h < n_heads; ++h) rotate(row + h * hd, hd, args.rope.f32() + i % s * hd);
        }
      }
    });
  });
}

void pixel_shuffle(const OpContext& ctx, const View& in, int64_t grid, int64_t shuffle, const View& out) {
  if (ctx.measuring()) return;
  const int64_t d = in.shape[2], tokens = in.shape[1], side = grid / shuffle;
  const size_t bytes = size_t(d) * dtype_bytes(in.dtype);
  L4_CHECK(side * shuffle == grid && tokens == grid * grid + 1 && out.elements() == in.shape[0] * grid * grid * d);
  ctx.pool.parallel_for(in.shape[0] * side * side, row_grain(d * shuffle * shuffle), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t tile = i / (side * side), r = i / side % side, c = i % side;
      std::byte* to = static_cast<std::byte*>(out.data) + size_t(i * shuffle * shuffle) * bytes;
      for (int64_t dy = 0; dy < shuffle; ++dy)
        for (int64_t dx = 0; dx < shuffle; ++dx, to += bytes) {
          const int64_t token = (shuffle * r + dy) * grid + shuffle * c + dx;
          std::memcpy(to, static_cast<const std::byte*>(in.data) + size_t(tile * tokens + token) * bytes, bytes);
        }
    }
  });
}

}  // namespace l4::cpu
