// data: addresses (RFC 2397) of pictures: data:image/png;base64,iVBORw0...
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace l4::tools {

// Strict base64 (RFC 4648, section 4): whole groups of four characters, padding where it belongs, unused bits zero, no
// white space. Error{input} saying where it is none, or when the bytes would be more than max_bytes.
std::string decode_base64(std::string_view text, uint64_t max_bytes);

// The bytes of a "data:" address whose type is one of the pictures that are read. The type chooses no decoder: clients
// often write a wrong one, and the bytes tell. Error{usage | input | unsupported}.
std::string decode_data_uri(std::string_view uri, uint64_t max_bytes);

bool is_data_uri(std::string_view url);

// "data:image/png;base64,..." of a picture file's bytes, its type told from them. `source` names it in errors:
// Error{input | unsupported} for bytes of no picture that is read.
std::string encode_data_uri(std::string_view bytes, std::string_view source);

}  // namespace l4::tools
