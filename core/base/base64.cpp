#include "base/base64.h"

#include <array>
#include <cstdint>

#include "base/error.h"
#include "base/strings.h"

namespace l4 {

namespace {

constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr uint8_t kNoDigit = 0xFF;

constexpr std::array<uint8_t, 256> kValues = [] {
  std::array<uint8_t, 256> values{};
  for (uint8_t& value : values) value = kNoDigit;
  for (size_t i = 0; i < kDigits.size(); ++i) values[uint8_t(kDigits[i])] = uint8_t(i);
  return values;
}();

}  // namespace

std::string to_base64(std::string_view bytes) {
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t j = i; j < i + 3; ++j) group = group << 8 | (j < bytes.size() ? uint8_t(bytes[j]) : 0u);
    for (size_t j = 0; j < 4; ++j) out.push_back(i + j <= bytes.size() ? kDigits[group >> (18 - 6 * j) & 63] : '=');
  }
  return out;
}

std::string from_base64(std::string_view text) {
  const size_t n_padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  const std::string_view digits = text.substr(0, text.size() - n_padding);
  std::string out;
  out.reserve(digits.size() / 4 * 3 + 3);
  uint32_t bits = 0;
  for (size_t i = 0; i < digits.size(); ++i) {
    const uint8_t value = kValues[uint8_t(digits[i])];
    if (value == kNoDigit) fail_input("not base64: character ", i + 1, " is ", shown(text.substr(i, 1)));
    bits = bits << 6 | value;
    if (i % 4 == 3) {
      out.push_back(char(bits >> 16));
      out.push_back(char(bits >> 8));
      out.push_back(char(bits));
    }
  }
  if (text.size() % 4 != 0)
    fail_input("not base64: ", text.size(), " characters, padding (=) included, are no multiple of 4");
  if (n_padding > 0) {
    const int n_unused = n_padding == 1 ? 2 : 4;
    if (bits & ((1u << n_unused) - 1)) fail_input("not base64: bits that nothing stands for are set in the last digit");
    bits >>= n_unused;
    if (n_padding == 1) out.push_back(char(bits >> 8));
    out.push_back(char(bits));
  }
  return out;
}

}  // namespace l4
