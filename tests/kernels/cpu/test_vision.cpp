#include "kernels/cpu/op_testing.h"

using namespace l4;
using namespace l4::test;

TEST_CASE("cpu vision: patches row by row, channel first inside") {
  Machine machine(2);
  struct Case {
    int64_t n, channels, side, p;
  };
  for (const Case& c : {Case{1, 3, 4, 4}, Case{2, 3, 6, 2}, Case{3, 1, 15, 5}}) {
    const int64_t grid = c.side / c.p;
    Numbers numbers(1);
    Values pixels = numbers.tensor(DType::bf16, {c.n, c.channels, c.side, c.side});
    Values patches(DType::bf16, {c.n * grid * grid, c.channels * c.p * c.p});
    machine.run([&](const cpu::OpContext& ctx) { cpu::cut_patches(ctx, pixels, c.p, patches); });
    for (int64_t n = 0; n < c.n; ++n)
      for (int64_t ch = 0; ch < c.channels; ++ch)
        for (int64_t y = 0; y < c.side; ++y)
          for (int64_t x = 0; x < c.side; ++x) {
            const int64_t patch = n * grid * grid + y / c.p * grid + x / c.p;
            const int64_t at = (patch * c.channels + ch) * c.p * c.p + y % c.p * c.p + x % c.p;
            CHECK(patches.at(at) == pixels.at(((n * c.channels + ch) * c.side + y) * c.side + x));
          }
  }
}

TEST_CASE("cpu vision: the class token comes last, positions are added to all") {
  Machine machine(2);
  for (DType a : {DType::f32, DType::bf16}) {
    Numbers numbers(2);
    const int64_t n = 3, s = 5, d = 33;
    Values patches = numbers.tensor(a, {n * (s - 1), d}), cls = numbers.tensor(a, {d});
    Values position = numbers.tensor(a, {s, d}), x(a, {n, s, d});
    machine.run([&](const cpu::OpContext& ctx) { cpu::add_positions(ctx, patches, cls, position, x); });
    for (int64_t i = 0; i < n * s * d; ++i) {
      const int64_t tile = i / d / s, token = i / d % s, j = i % d;
      double from = token == s - 1 ? cls.at(j) : patches.at((tile * (s - 1) + token) * d + j);
      CHECK(x.at(i) == round_as(a, double(float(from) + float(position.at(token * d + j)))));
    }
  }
}

TEST_CASE("cpu vision: q and k rotated by the table of their token, v as it is") {
  Machine machine(2);
  for (DType a : {DType::f32, DType::bf16}) {
    Numbers numbers(3);
    const int64_t n = 2, s = 7, heads = 3, hd = 8, d = heads * hd;
    Values qkv = numbers.tensor(a, {n * s, 3 * d}), table(DType::f32, {s, hd / 2, 2});
    for (int64_t i = 0; i < s * hd / 2; ++i) {
      const double angle = numbers.uniform(-3, 3);
      table.set(2 * i, std::cos(angle)), table.set(2 * i + 1, std::sin(angle));
    }
    Values q(a, {n, s, heads, hd}), k = q, v = q;
    VisionQkvArgs args{.x = {}, .norm = {}, .w = nullptr, .rope = table, .q = q, .k = k, .v = v, .work = nullptr};
    machine.run([&](const cpu::OpContext& ctx) { cpu::split_vision_qkv(ctx, args, qkv); });
    const Values* parts[] = {&q, &k, &v};
    for (int part = 0; part < 3; ++part) {
      Doubles want, size;
      for (int64_t i = 0; i < n * s; ++i)
        for (int64_t j = 0; j < d; ++j) {
          const int64_t even = i * 3 * d + part * d + j / 2 * 2, at = (i % s * hd + j % hd / 2 * 2);
          const double x = qkv.at(even), y = qkv.at(even + 1), c = table.at(at), sn = table.at(at + 1);
          const double rotated = j % 2 ? x * sn + y * c : x * c - y * sn;
          want.push_back(part == 2 ? (j % 2 ? y : x) : round_as(a, rotated));
          size.push_back(std::hypot(x, y));
        }
      CHECK(difference(*parts[part], want, size, part == 2 ? tolerance::kExact : tolerance::kRope) == "");
    }
  }
}

TEST_CASE("cpu vision: pixel shuffle by its formula, the class token dropped") {
  Machine machine(2);
  struct Case {
    int64_t n, grid, s, d;
  };
  for (const Case& c : {Case{1, 2, 2, 3}, Case{2, 6, 2, 5}, Case{2, 6, 3, 4}, Case{1, 4, 1, 2}}) {
    const int64_t side = c.grid / c.s;
    Numbers numbers(4);
    Values in = numbers.tensor(DType::bf16, {c.n, c.grid * c.grid + 1, c.d});
    Values out(DType::bf16, {c.n, side * side, c.d * c.s * c.s});
    machine.run([&](const cpu::OpContext& ctx) { cpu::pixel_shuffle(ctx, in, c.grid, c.s, out); });
    for (int64_t n = 0; n < c.n; ++n)
      for (int64_t r = 0; r < side; ++r)
        for (int64_t col = 0; col < side; ++col)
          for (int64_t dy = 0; dy < c.s; ++dy)
            for (int64_t dx = 0; dx < c.s; ++dx)
              for (int64_t ch = 0; ch < c.d; ++ch) {
                const int64_t token = (c.s * r + dy) * c.grid + c.s * col + dx;
                const double want = in.at((n * (c.grid * c.grid + 1) + token) * c.d + ch);
                CHECK(out.at((n * side * side + r * side + col) * c.d * c.s * c.s + (dy * c.s + dx) * c.d + ch) ==
                      want);
              }
  }
}
