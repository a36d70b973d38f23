#include "kernels/cuda/gpu_testing.h"

using namespace l4;
using namespace l4::test;

TEST_CASE("cuda vision: patches, positions and the shuffle, bit for bit") {
  Machine cpu_machine(1);
  GpuMachine gpu;
  Numbers numbers(3);
  struct Case {
    int64_t n_tiles, channels, grid, patch, d, shuffle;
  };
  for (const Case& c : {Case{1, 3, 2, 2, 8, 2}, Case{2, 3, 4, 14, 24, 2}, Case{3, 1, 3, 5, 7, 3}}) {
    const int64_t side = c.grid * c.patch, n_patches = c.n_tiles * c.grid * c.grid, s = c.grid * c.grid + 1;
    const int64_t width = c.channels * c.patch * c.patch;
    Values pixels = numbers.tensor(DType::bf16, {c.n_tiles, c.channels, side, side}),
           cut(DType::bf16, {n_patches, width});
    const View gpixels = gpu.upload(pixels), gcut = gpu.upload(cut);
    cpu_machine.run([&](const cpu::OpContext& ctx) { cpu::cut_patches(ctx, pixels, c.patch, cut); });
    gpu.run([&](const cuda::OpContext& ctx) { cuda::cut_patches(ctx, gpixels, c.patch, gcut); });
    CHECK(same_bits(gpu.download(gcut), cut));
    for (DType a : {DType::f32, DType::bf16}) {
      Values patches = numbers.tensor(a, {n_patches, c.d}), cls = numbers.tensor(a, {c.d});
      Values position = numbers.tensor(a, {s, c.d}), x(a, {c.n_tiles, s, c.d});
      const View gpatches = gpu.upload(patches), gcls = gpu.upload(cls), gposition = gpu.upload(position),
                 gx = gpu.upload(x);
      cpu_machine.run([&](const cpu::OpContext& ctx) { cpu::add_positions(ctx, patches, cls, position, x); });
      gpu.run([&](const cuda::OpContext& ctx) { cuda::add_positions(ctx, gpatches, gcls, gposition, gx); });
      CHECK(same_bits(gpu.download(gx), x));
      Values out(a, {c.n_tiles, c.grid * c.grid / (c.shuffle * c.shuffle), c.d * c.shuffle * c.shuffle});
      const View gout = gpu.upload(out);
      cpu_machine.run([&](const cpu::OpContext& ctx) { cpu::pixel_shuffle(ctx, x, c.grid, c.shuffle, out); });
      gpu.run([&](const cuda::OpContext& ctx) { cuda::pixel_shuffle(ctx, gx, c.grid, c.shuffle, gout); });
      CHECK(same_bits(gpu.download(gout), out));
    }
  }
}

TEST_CASE("cuda vision: q, k and v apart, q and k rotated, bit for bit") {
  Machine cpu_machine(1);
  GpuMachine gpu;
  for (int64_t hd : {2, 8, 20, 88})
    for (DType a : {DType::f32, DType::bf16}) {
      INFO(cat(hd, " ", dtype_name(a)));
      Numbers numbers(4);
      const Shape shape{2, 5, 3, hd};
      Values qkv = numbers.tensor(a, {10, 9 * hd}), rope = numbers.tensor(DType::f32, {5, hd / 2, 2});
      Values q(a, shape), k(a, shape), v(a, shape);
      const View gqkv = gpu.upload(qkv), grope = gpu.upload(rope), gq = gpu.upload(q), gk = gpu.upload(k),
                 gv = gpu.upload(v);
      VisionQkvArgs args{.x = {}, .norm = {}, .w = nullptr, .rope = rope, .q = q, .k = k, .v = v, .work = nullptr};
      VisionQkvArgs gpu_args = args;
      gpu_args.q = gq, gpu_args.k = gk, gpu_args.v = gv;
      cpu_machine.run([&](const cpu::OpContext& ctx) { cpu::split_vision_qkv(ctx, args, qkv); });
      gpu.run([&](const cuda::OpContext& ctx) { cuda::split_vision_qkv(ctx, gpu_args, grope.f32(), gqkv); });
      CHECK((same_bits(gpu.download(gq), q) && same_bits(gpu.download(gk), k) && same_bits(gpu.download(gv), v)));
    }
}
