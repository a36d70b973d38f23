// What Python's str methods and repr write, which Jinja templates let through into prompts.
#pragma once

#include <string>
#include <string_view>

#include "formats/json.h"

namespace l4 {

// str.isspace() of one character, which is \s of the module re: Unicode white space and U+001C-U+001F.
bool is_python_space(char32_t c);
// str.strip(): Unicode white space and the separators U+001C-U+001F, at both ends of valid UTF-8.
std::string_view python_strip(std::string_view utf8);
// str(value): text as it is, None, True, 1.0, and repr for lists and dicts.
std::string python_str(const Json& value);
// repr(value): text in quotes, unprintable characters escaped.
std::string python_repr(const Json& value);

}  // namespace l4
