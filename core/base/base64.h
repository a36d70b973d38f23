// base64 (RFC 4648, section 4).
#pragma once

#include <string>
#include <string_view>

namespace l4 {

std::string to_base64(std::string_view bytes);

// Strict: whole groups of four characters, padding where it belongs, unused bits zero, no white space. Error{input}
// "not base64: ..." saying where it is none.
std::string from_base64(std::string_view text);

}  // namespace l4
