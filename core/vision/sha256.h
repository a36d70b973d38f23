// SHA-256 (FIPS 180-4), for content digests.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace l4 {

class Sha256 {
 public:
  void update(std::span<const uint8_t> bytes);
  std::array<uint8_t, 32> finish();  // once, at the end

 private:
  void compress(const uint8_t* block);  // 64 bytes

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> block_{};
  uint64_t n_bytes_ = 0;
};

}  // namespace l4
