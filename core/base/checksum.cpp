#include "base/checksum.h"

#include <bit>
#include <cstring>

namespace l4 {

namespace {

constexpr uint64_t kOdd = 0x9E3779B97F4A7C15ull, kOther = 0xC2B2AE3D27D4EB4Full;

// For a given word one to one in `state`, for a given state one to one in `word`.
uint64_t take(uint64_t state, uint64_t word) {
  return std::rotl(state + word * kOther, 29) * kOdd;
}

uint64_t word_at(const std::byte* bytes, size_t n = 8) {
  uint64_t word = 0;
  std::memcpy(&word, bytes, n);
  static_assert(std::endian::native == std::endian::little);
  return word;
}

}  // namespace

// Four lanes, so that a multiplication need not wait for the one before.
uint64_t checksum(std::span<const std::byte> bytes, uint64_t seed) {
  uint64_t lanes[4] = {seed, seed + 1, seed + 2, seed + 3};
  size_t at = 0;
  for (; at + 32 <= bytes.size(); at += 32)
    for (size_t lane = 0; lane < 4; ++lane) lanes[lane] = take(lanes[lane], word_at(&bytes[at + 8 * lane]));
  for (size_t lane = 0; at < bytes.size(); ++lane, at += 8)
    lanes[lane] = take(lanes[lane], word_at(&bytes[at], bytes.size() - at < 8 ? bytes.size() - at : 8));
  uint64_t sum = bytes.size();
  for (uint64_t lane : lanes) sum = take(sum, lane);
  return sum ^ sum >> 32;
}

}  // namespace l4
