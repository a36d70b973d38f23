#include "base/strings.h"

#include <cmath>
#include <cstdio>

namespace l4 {

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  while (true) {
    size_t end = text.find(separator, begin);
    parts.emplace_back(text.substr(begin, end == std::string_view::npos ? end : end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

std::string_view trim(std::string_view text) {
  const char* spaces = " \t\r\n\v\f";
  size_t begin = text.find_first_not_of(spaces);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(spaces) - begin + 1);
}

std::string to_lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
  return out;
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string out;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i) out.append(separator);
    out.append(parts[i]);
  }
  return out;
}

std::string human_bytes(uint64_t bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = double(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) value /= 1024, ++unit;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.2f %s", value, units[unit]);
  return text;
}

std::string human_count(uint64_t n) {
  std::string digits = std::to_string(n), out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i && (digits.size() - i) % 3 == 0) out.push_back(',');
    out.push_back(digits[i]);
  }
  return out;
}

std::string shown(std::string_view untrusted) {
  constexpr size_t kMaxShown = 120;
  std::string out = "\"";
  std::string clean = utf8_replace_invalid(untrusted.substr(0, kMaxShown));
  for (unsigned char c : clean) {
    if (c < 0x20 || c == 0x7f) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\x%02x", c);
      out += escape;
    } else {
      out.push_back(char(c));
    }
  }
  out += untrusted.size() > kMaxShown ? "…\"" : "\"";
  return out;
}

std::optional<uint64_t> parse_size(std::string_view text) {
  text = trim(text);
  if (text.empty()) return std::nullopt;
  double scale = 1;
  switch (text.back()) {
    case 'k': scale = 1e3; break;
    case 'm': scale = 1e6; break;
    case 'g': scale = 1e9; break;
    case 'K': scale = 1024.0; break;
    case 'M': scale = 1024.0 * 1024; break;
    case 'G': scale = 1024.0 * 1024 * 1024; break;
    default: break;
  }
  if (scale != 1) text.remove_suffix(1);
  std::optional<double> value = parse_double(text);
  if (!value || *value < 0 || *value * scale > 9e15) return std::nullopt;
  double scaled = *value * scale;
  if (scaled != std::floor(scaled)) return std::nullopt;
  return uint64_t(scaled);
}

std::optional<int64_t> parse_int(std::string_view text) {
  int64_t value = 0;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (ec != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

std::optional<double> parse_double(std::string_view text) {
  double value = 0;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (ec != std::errc() || end != text.data() + text.size() || text.empty() || !std::isfinite(value)) return std::nullopt;
  return value;
}

namespace {
// Examines the character that starts at `pos`. Returns its length if whole and valid (RFC 3629: no overlong forms, no
// surrogates, at most U+10FFFF). Otherwise returns 0 and sets `bad` to the length of the maximal invalid subpart and
// `cut` to whether that subpart is a proper prefix of a valid character that the end of the text cut off.
size_t utf8_character(std::string_view s, size_t pos, size_t& bad, bool& cut) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  unsigned char lead = byte(pos);
  bad = 1;
  cut = false;
  if (lead < 0x80) return 1;
  size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  unsigned char low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (size_t i = 1; i < length; ++i) {
    if (pos + i >= s.size()) {
      bad = i;
      cut = true;
      return 0;
    }
    unsigned char c = byte(pos + i);
    if (c < low || c > high) {
      bad = i;
      return 0;
    }
    low = 0x80, high = 0xBF;
  }
  return length;
}
}  // namespace

bool is_valid_utf8(std::string_view bytes) {
  size_t bad;
  bool cut;
  for (size_t pos = 0; pos < bytes.size();) {
    size_t length = utf8_character(bytes, pos, bad, cut);
    if (length == 0) return false;
    pos += length;
  }
  return true;
}

size_t utf8_whole_prefix(std::string_view bytes) {
  size_t bad;
  bool cut;
  size_t begin = bytes.size() > 3 ? bytes.size() - 3 : 0;
  for (size_t pos = begin; pos < bytes.size(); ++pos)
    if (utf8_character(bytes, pos, bad, cut) == 0 && cut) return pos;
  return bytes.size();
}

std::string utf8_replace_invalid(std::string_view bytes) {
  std::string out;
  size_t bad;
  bool cut;
  for (size_t pos = 0; pos < bytes.size();) {
    if (size_t length = utf8_character(bytes, pos, bad, cut)) {
      out.append(bytes.substr(pos, length));
      pos += length;
    } else {
      out.append("\xEF\xBF\xBD");
      pos += bad;
    }
  }
  return out;
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out.push_back(char(c));
  } else if (c < 0x800) {
    out.push_back(char(0xC0 | (c >> 6)));
    out.push_back(char(0x80 | (c & 0x3F)));
  } else if (c < 0x10000) {
    out.push_back(char(0xE0 | (c >> 12)));
    out.push_back(char(0x80 | ((c >> 6) & 0x3F)));
    out.push_back(char(0x80 | (c & 0x3F)));
  } else {
    out.push_back(char(0xF0 | (c >> 18)));
    out.push_back(char(0x80 | ((c >> 12) & 0x3F)));
    out.push_back(char(0x80 | ((c >> 6) & 0x3F)));
    out.push_back(char(0x80 | (c & 0x3F)));
  }
}

char32_t next_code_point(std::string_view s, size_t& pos) {
  auto byte = [&](size_t i) { return char32_t(static_cast<unsigned char>(s[i])); };
  char32_t c = byte(pos);
  if (c < 0x80) {
    pos += 1;
    return c;
  }
  if (c < 0xE0) {
    c = ((c & 0x1F) << 6) | (byte(pos + 1) & 0x3F);
    pos += 2;
  } else if (c < 0xF0) {
    c = ((c & 0x0F) << 12) | ((byte(pos + 1) & 0x3F) << 6) | (byte(pos + 2) & 0x3F);
    pos += 3;
  } else {
    c = ((c & 0x07) << 18) | ((byte(pos + 1) & 0x3F) << 12) | ((byte(pos + 2) & 0x3F) << 6) | (byte(pos + 3) & 0x3F);
    pos += 4;
  }
  return c;
}

}  // namespace l4
