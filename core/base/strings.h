// Text helpers: concatenation, splitting, sizes for people, UTF-8.
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace l4 {

namespace detail {
inline void append(std::string& out, std::string_view s) { out.append(s); }
template <class T>
  requires std::is_arithmetic_v<T>
void append(std::string& out, T value) {
  if constexpr (std::is_same_v<T, char>) {
    out.push_back(value);
  } else if constexpr (std::is_same_v<T, bool>) {
    out.append(value ? "true" : "false");
  } else {
    char digits[40];
    auto [end, ec] = std::to_chars(digits, digits + sizeof digits, value);
    out.append(digits, ec == std::errc() ? end : digits);
  }
}
}  // namespace detail

// cat("tensor ", name, ": ", 3, " rows"): numbers in their shortest exact form.
template <class... Parts>
std::string cat(const Parts&... parts) {
  std::string out;
  (detail::append(out, parts), ...);
  return out;
}

std::vector<std::string> split(std::string_view text, char separator);
std::string_view trim(std::string_view text);  // ASCII white space at both ends
std::string to_lower(std::string_view text);   // ASCII
std::string join(const std::vector<std::string>& parts, std::string_view separator);

std::string human_bytes(uint64_t bytes);        // "1.50 GiB"
std::string human_count(uint64_t n);            // "1,048,576"
std::string shown(std::string_view untrusted);  // printable and short, for error lines: "ab\x01c"

// "4096", "1k" = 1000, "1K" = 1024, "2M" = 2 * 1024^2, "1.5G" (vLLM's human sizes). Nothing when it is not such a number.
std::optional<uint64_t> parse_size(std::string_view text);
// The whole text as a number, in range; nothing otherwise.
std::optional<int64_t> parse_int(std::string_view text);
std::optional<double> parse_double(std::string_view text);

bool is_valid_utf8(std::string_view bytes);
// Length in bytes of the longest prefix that does not end inside a UTF-8 character.
size_t utf8_whole_prefix(std::string_view bytes);
// Replaces what is not UTF-8 by U+FFFD as Python's errors="replace" does (one per maximal invalid subpart).
std::string utf8_replace_invalid(std::string_view bytes);
void append_utf8(std::string& out, char32_t code_point);
// Decodes one code point at `pos` of valid UTF-8 and advances pos.
char32_t next_code_point(std::string_view utf8, size_t& pos);

}  // namespace l4
