#include "text/python_text.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstdint>
#include <cstdio>

#include "base/error.h"
#include "base/strings.h"

namespace l4 {

bool is_python_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

namespace {

// str.isprintable of one character: neither Other nor Separator, but the space.
bool is_printable(std::string_view character) {
  static pcre2_code* const unprintable = [] {
    int error = 0;
    PCRE2_SIZE at = 0;
    pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>("[\\p{C}\\p{Z}]"), PCRE2_ZERO_TERMINATED,
                                     PCRE2_UTF | PCRE2_ANCHORED, &error, &at, nullptr);
    L4_CHECK(code);
    return code;
  }();
  if (character.size() == 1) return character[0] >= 0x20 && character[0] < 0x7F;
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  int found = pcre2_match(unprintable, reinterpret_cast<PCRE2_SPTR>(character.data()), character.size(), 0,
                          PCRE2_NO_UTF_CHECK, data, nullptr);
  pcre2_match_data_free(data);
  return found < 0;
}

std::string repr_of_text(std::string_view text) {
  // Single quotes unless that would need an escape which double quotes do not.
  char quote = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t pos = 0; pos < text.size();) {
    size_t begin = pos;
    char32_t c = next_code_point(text, pos);
    std::string_view character = text.substr(begin, pos - begin);
    char escape[16];
    if (c == char32_t(quote) || c == '\\') {
      out.push_back('\\');
      out += character;
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (is_printable(character)) {
      out += character;
    } else {
      std::snprintf(escape, sizeof escape, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", unsigned(c));
      out += escape;
    }
  }
  out.push_back(quote);
  return out;
}

void append_repr(std::string& out, const Json& value) {
  if (value.is_null()) {
    out += "None";
  } else if (value.is_bool()) {
    out += value.as_bool() ? "True" : "False";
  } else if (value.is_integer()) {
    out += cat(value.as_integer());
  } else if (value.is_number()) {
    out += python_float(value.as_number());
  } else if (value.is_string()) {
    out += repr_of_text(value.as_string());
  } else if (value.is_array()) {
    out.push_back('[');
    bool first = true;
    for (const Json& item : value.as_array()) {
      if (!first) out += ", ";
      first = false;
      append_repr(out, item);
    }
    out.push_back(']');
  } else {
    out.push_back('{');
    bool first = true;
    for (const auto& [key, member] : value.as_object()) {
      if (!first) out += ", ";
      first = false;
      out += repr_of_text(key);
      out += ": ";
      append_repr(out, member);
    }
    out.push_back('}');
  }
}

}  // namespace

std::string_view python_strip(std::string_view utf8) {
  size_t begin = 0, end = 0;  // end of the last character that is no space
  bool inside = false;
  for (size_t pos = 0; pos < utf8.size();) {
    size_t at = pos;
    if (is_python_space(next_code_point(utf8, pos))) continue;
    if (!inside) begin = at;
    inside = true;
    end = pos;
  }
  return utf8.substr(begin, end - begin);
}

std::string python_repr(const Json& value) {
  std::string out;
  append_repr(out, value);
  return out;
}

std::string python_str(const Json& value) {
  return value.is_string() ? value.as_string() : python_repr(value);
}

}  // namespace l4
