// 64 bits over bytes, to notice damage: fast, and no defence against somebody who means it (vision/sha256.h is).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace l4 {

// Follows from the bytes, their number and the seed alone, on every machine. Any change within one aligned group of 8
// bytes changes it for certain, others all but so.
uint64_t checksum(std::span<const std::byte> bytes, uint64_t seed = 0);

}  // namespace l4
