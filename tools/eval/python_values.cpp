#include "tools/eval/python_values.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>

#include "base/strings.h"
#include "formats/json.h"
#include "text/python_pattern.h"
#include "text/python_text.h"

namespace l4::eval {

namespace {

bool within(char32_t c, char32_t first, char32_t last) {
  return c >= first && c <= last;
}

// Blocks in which capital and small letter stand side by side, the capital first at an even or at an odd number.
bool is_capital_at_even(char32_t c) {
  return c % 2 == 0 &&
         (within(c, 0x100, 0x12E) || within(c, 0x132, 0x136) || within(c, 0x14A, 0x176) || within(c, 0x1DE, 0x1EE) ||
          within(c, 0x1F8, 0x21E) || within(c, 0x222, 0x232) || within(c, 0x460, 0x480) || within(c, 0x48A, 0x4BE) ||
          within(c, 0x4D0, 0x52E) || within(c, 0x1E00, 0x1E94) || within(c, 0x1EA0, 0x1EFE));
}

bool is_capital_at_odd(char32_t c) {
  return c % 2 == 1 &&
         (within(c, 0x139, 0x147) || within(c, 0x179, 0x17D) || within(c, 0x1CD, 0x1DB) || within(c, 0x4C1, 0x4CD));
}

char32_t lower(char32_t c) {
  if (within(c, 'A', 'Z')) return c + 32;
  if (c < 0xC0) return c;
  if (within(c, 0xC0, 0xDE) && c != 0xD7) return c + 32;
  if (is_capital_at_even(c) || is_capital_at_odd(c)) return c + 1;
  if (within(c, 0x391, 0x3AB) && c != 0x3A2) return c + 32;
  if (within(c, 0x388, 0x38A)) return c + 37;
  if (within(c, 0x400, 0x40F)) return c + 80;
  if (within(c, 0x410, 0x42F)) return c + 32;
  if (within(c, 0xFF21, 0xFF3A)) return c + 32;
  switch (c) {
    case 0x178:
      return 0xFF;
    case 0x386:
      return 0x3AC;
    case 0x38C:
      return 0x3CC;
    case 0x38E:
      return 0x3CD;
    case 0x38F:
      return 0x3CE;
    case 0x4C0:
      return 0x4CF;
    case 0x1E9E:
      return 0xDF;
    case 0x2126:
      return 0x3C9;
    case 0x212A:
      return 'k';
    case 0x212B:
      return 0xE5;
    default:
      return c;
  }
}

}  // namespace

std::optional<double> python_float_of(std::string_view text) {
  static const PythonPattern number(
      R"(^(?:[0-9](?:_?[0-9])*(?:\.(?:[0-9](?:_?[0-9])*)?)?|\.[0-9](?:_?[0-9])*)(?:[eE][+-]?[0-9](?:_?[0-9])*)?\z)");
  text = python_strip(text);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  double value = 0;
  const std::string word = to_lower(text);
  if (word == "inf" || word == "infinity") {
    value = std::numeric_limits<double>::infinity();
  } else if (word == "nan") {
    value = std::numeric_limits<double>::quiet_NaN();
  } else {
    if (!number.first(text)) return std::nullopt;
    std::string digits(text);
    std::erase(digits, '_');
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    // Out of range: too large or too small, as the exponent says.
    if (error != std::errc() && word.find("e-") == word.npos) value = std::numeric_limits<double>::infinity();
  }
  return negative ? -value : value;
}

std::string python_lower(std::string_view text) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) append_utf8(out, lower(next_code_point(text, pos)));
  return out;
}

bool has_digit(std::string_view text) {
  static const PythonPattern digit(
      R"([\p{Nd}\x{b2}\x{b3}\x{b9}\x{1369}-\x{1371}\x{19da}\x{2070}\x{2074}-\x{2079}\x{2080}-\x{2089}\x{2460}-\x{2468}])"
      R"(|[\x{2474}-\x{247c}\x{2488}-\x{2490}\x{24ea}\x{24f5}-\x{24fd}\x{24ff}\x{2776}-\x{277e}\x{2780}-\x{2788}])"
      R"(|[\x{278a}-\x{2792}\x{10a40}-\x{10a43}\x{10e60}-\x{10e68}\x{11052}-\x{1105a}\x{1f100}-\x{1f10a}])");
  return digit.first(text).has_value();
}

std::string_view first_character(std::string_view text) {
  size_t pos = 0;
  if (!text.empty()) next_code_point(text, pos);
  return text.substr(0, pos);
}

bool is_one_letter(std::string_view text) {
  static const PythonPattern letter(R"(\p{L})");
  return !text.empty() && first_character(text) == text && letter.first(text);
}

bool is_punctuation(char c) {
  return std::string_view("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~").find(c) != std::string_view::npos;
}

std::string shortest(double value) {
  if (value != std::trunc(value)) return python_float(value);
  char text[400];  // a double has at most 309 digits before the point, and %.0f writes them exactly as int() has them
  std::snprintf(text, sizeof text, "%.0f", value == 0 ? 0.0 : value);
  return text;
}

std::string with_thousands(double value) {
  std::string text = shortest(value);
  const size_t first = text.starts_with('-') ? 1 : 0;
  if (text.find('e') != text.npos) return text;
  for (size_t at = std::min(text.find('.'), text.size()); at > first + 3;) text.insert(at -= 3, 1, ',');
  return text;
}

}  // namespace l4::eval
