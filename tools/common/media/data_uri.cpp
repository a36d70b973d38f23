#include "tools/common/media/data_uri.h"

#include <array>

#include "base/error.h"

namespace l4::tools {

namespace {

constexpr uint8_t kNoDigit = 0xFF;

constexpr std::array<uint8_t, 256> make_digits() {
  std::array<uint8_t, 256> digits{};
  for (uint8_t& digit : digits) digit = kNoDigit;
  constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < alphabet.size(); ++i) digits[uint8_t(alphabet[i])] = uint8_t(i);
  return digits;
}
constexpr std::array<uint8_t, 256> kDigits = make_digits();

[[noreturn]] void fail_at(std::string_view text, size_t at) {
  fail_input("not base64: character ", at + 1, " is ", shown(text.substr(at, 1)));
}

}  // namespace

std::string decode_base64(std::string_view text, uint64_t max_bytes) {
  if (text.empty()) fail_input("no data after base64,");
  if (text.size() / 4 > max_bytes / 3 + 1)  // before any work; exactly below
    fail_input("over the limit of ", human_bytes(max_bytes), " for an image");
  const size_t n_padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  const std::string_view digits = text.substr(0, text.size() - n_padding);
  std::string out;
  out.reserve(digits.size() / 4 * 3 + 3);
  uint32_t bits = 0;
  for (size_t i = 0; i < digits.size(); ++i) {
    const uint8_t digit = kDigits[uint8_t(digits[i])];
    if (digit == kNoDigit) fail_at(text, i);
    bits = bits << 6 | digit;
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
  if (out.size() > max_bytes)
    fail_input(human_bytes(out.size()), " is over the limit of ", human_bytes(max_bytes), " for an image");
  return out;
}

bool is_data_uri(std::string_view url) {
  return to_lower(url.substr(0, 5)) == "data:";
}

std::string decode_data_uri(std::string_view uri, uint64_t max_bytes) {
  constexpr std::string_view kForm = "data:image/png;base64,... (or jpeg, webp, bmp)";
  constexpr size_t kMaxHead = 64;
  const size_t comma = uri.substr(0, kMaxHead).find(',');
  if (!is_data_uri(uri) || comma == std::string_view::npos)
    fail(ErrorKind::usage, "expected ", kForm, ", found ", shown(uri.substr(0, 32)));
  const std::string head = to_lower(uri.substr(5, comma - 5));
  const size_t semicolon = head.find(';');
  const std::string type = head.substr(0, semicolon);
  constexpr std::array kTypes = {"image/png", "image/jpeg", "image/jpg", "image/webp", "image/bmp"};
  bool known = false;
  for (const char* name : kTypes) known = known || type == name;
  if (!known)
    fail(ErrorKind::unsupported, "type ", shown(type),
         " is not read, only image/png, image/jpeg, image/webp, image/bmp");
  if (semicolon == std::string::npos || head.substr(semicolon) != ";base64")
    fail(ErrorKind::usage, "expected ", kForm, ", found ", shown(uri.substr(0, comma + 1)));
  return decode_base64(uri.substr(comma + 1), max_bytes);
}

}  // namespace l4::tools
