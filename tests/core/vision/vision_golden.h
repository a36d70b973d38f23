// What the vision tests share: tests/golden/vision (written by scripts/golden/vision_golden.py from transformers,
// torchvision and Pillow), its made-up picture, and hashes as text.
#pragma once

#include <span>
#include <string>

#include "base/file.h"
#include "base/hex.h"
#include "formats/json.h"
#include "support/test.h"
#include "vision/image.h"
#include "vision/sha256.h"

namespace l4::test {

inline Json::Array golden_cases(const std::string& name) {
  const auto path = golden("vision/" + name);
  return parse_json(read_file(path, 1 << 24), path.string()).find("cases")->as_array();
}

inline int64_t integer(const Json& object, const char* key) {
  return object.find(key)->as_integer();
}

// The picture that vision_golden.py calls pattern(height, width).
inline Image pattern(int64_t height, int64_t width) {
  Image image{height, width, {}};
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (int64_t c = 0; c < 3; ++c) image.rgb.push_back(uint8_t((7 * y + 3 * x + 50 * c) ^ ((y * x) >> 3)));
  return image;
}

inline std::string sha256_hex(const void* data, size_t n_bytes) {
  Sha256 hash;
  hash.update({static_cast<const uint8_t*>(data), n_bytes});
  return to_hex(hash.finish());
}

}  // namespace l4::test
