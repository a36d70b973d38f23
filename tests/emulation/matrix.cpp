// wgmma's arithmetic: tiles are read through their descriptors, element by element, as the hardware addresses them.
#include <cmath>

#include "emulation/block.h"
#include "kernels/cuda/ptx/swizzle.h"
#include "quant/fp8.h"

namespace l4::emulation {

namespace {

// A tile through its matrix descriptor (PTX ISA 9.0, "Matrix Descriptor Format" and "Strides").
struct Tile {
  const Block& block;
  uint32_t start, leading, stride;
  cuda::Swizzle swizzle;

  Tile(const Block& b, uint64_t d)
      : block(b),
        start(uint32_t(d & 0x3FFF) << 4),
        leading(uint32_t(d >> 16 & 0x3FFF) << 4),
        stride(uint32_t(d >> 32 & 0x3FFF) << 4),
        swizzle(cuda::Swizzle(d >> 62)) {
    if (d >> 49 & 7)
      b.fail(Where(), "wgmma: a base offset in a descriptor is not emulated: align tiles to their swizzle");
  }
  uint32_t span() const {  // bytes of a row of an atom
    return swizzle == cuda::Swizzle::bytes128  ? 128
           : swizzle == cuda::Swizzle::bytes64 ? 64
           : swizzle == cuda::Swizzle::bytes32 ? 32
                                               : 16;
  }
  // E4M3, k-major with rows of 128, 64 or 32 bytes.
  float e4m3_at(int mn, int k) const {
    if (swizzle == cuda::Swizzle::none) block.fail(Where(), "wgmma: E4M3 without a swizzle is not emulated");
    const uint32_t offset = uint32_t(mn / 8) * stride + uint32_t(mn % 8) * span() + uint32_t(k);
    return fp8_to_float(*block.at_shared_address(cuda::swizzled(swizzle, start + offset), 1));
  }
  // bfloat16; mn: row of a, column of b. In both layouts the swizzle permutes the address that results.
  float at(int mn, int k, bool mn_major) const {
    uint32_t offset;
    if (!mn_major) {
      offset = uint32_t(mn / 8) * stride + uint32_t(mn % 8) * span();
      if (swizzle == cuda::Swizzle::none)
        offset += uint32_t(k / 8) * leading + uint32_t(k % 8) * 2;
      else
        offset += uint32_t(k) * 2;  // the start address moves within the rows from one 16 of k to the next
    } else {
      const int row = int(span() / 2);  // elements
      // Without a swizzle the two strides change places.
      const bool plain = swizzle == cuda::Swizzle::none;
      offset = uint32_t(mn / row) * (plain ? stride : leading) + uint32_t(mn % row) * 2 + uint32_t(k % 8) * span() +
               uint32_t(k / 8) * (plain ? leading : stride);
    }
    const uint32_t address = cuda::swizzled(swizzle, start + offset);
    uint16_t bits;
    std::memcpy(&bits, block.at_shared_address(address, 2), 2);
    return std::bit_cast<float>(uint32_t(bits) << 16);
  }
};

float low(uint32_t v) {
  return std::bit_cast<float>(v << 16);
}
float high(uint32_t v) {
  return std::bit_cast<float>(v & 0xFFFF0000u);
}

// A sum of E4M3 products keeps 13 bits of fraction, those below are cut off.
float cut(float sum) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(sum) & ~((1u << 10) - 1));
}

void run_e4m3(const Block& block, const WgmmaOperation& operation) {
  const WgmmaOperands& o = operation.operands;
  float a[64][32], b[256][32];
  const Tile tile_a(block, o.a), tile_b(block, o.b);
  for (int k = 0; k < 32; ++k) {
    for (int m = 0; m < 64; ++m) a[m][k] = tile_a.e4m3_at(m, k);
    for (int n = 0; n < o.n; ++n) b[n][k] = tile_b.e4m3_at(n, k);
  }
  for (int t = 0; t < 128; ++t)
    for (int j = 0; j < o.n / 8; ++j)
      for (int i = 0; i < 4; ++i) {
        const int m = t / 32 * 16 + t % 32 / 4 + i / 2 * 8, n = 8 * j + t % 4 * 2 + i % 2;
        float& to = operation.d[t][4 * j + i];
        float sum = 0;
        for (int k = 0; k < 32; ++k) sum += a[m][k] * b[n][k];
        to = cut(o.accumulate ? to + sum : sum);
      }
}

}  // namespace

void run_wgmma(const Block& block, const WgmmaOperation& operation) {
  const WgmmaOperands& o = operation.operands;
  if (o.e4m3) return run_e4m3(block, operation);
  float a[64][16], b[16][256], d[64][256];
  if (o.a_in_registers) {
    for (int t = 0; t < 128; ++t)
      for (int i = 0; i < 4; ++i) {
        float* at = &a[t / 32 * 16 + t % 32 / 4 + i % 2 * 8][t % 4 * 2 + i / 2 * 8];
        at[0] = low(operation.a[t][i]), at[1] = high(operation.a[t][i]);
      }
  } else {
    const Tile tile(block, o.a);
    for (int m = 0; m < 64; ++m)
      for (int k = 0; k < 16; ++k) a[m][k] = tile.at(m, k, false);
  }
  const Tile tile(block, o.b);
  for (int k = 0; k < 16; ++k)
    for (int n = 0; n < o.n; ++n) b[k][n] = tile.at(n, k, o.b_mn_major);
  for (int m = 0; m < 64; ++m) {
    for (int n = 0; n < o.n; ++n) d[m][n] = 0;
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < o.n; ++n) d[m][n] += a[m][k] * b[k][n];
  }
  for (int t = 0; t < 128; ++t)
    for (int j = 0; j < o.n / 8; ++j)
      for (int i = 0; i < 4; ++i) {
        float& to = operation.d[t][4 * j + i];
        const float sum = d[t / 32 * 16 + t % 32 / 4 + i / 2 * 8][8 * j + t % 4 * 2 + i % 2];
        to = o.accumulate ? to + sum : sum;
      }
}

}  // namespace l4::emulation
