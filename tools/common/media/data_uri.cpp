#include "tools/common/media/data_uri.h"

#include <array>

#include "base/base64.h"
#include "base/error.h"
#include "vision/image.h"

namespace l4::tools {

std::string decode_base64(std::string_view text, uint64_t max_bytes) {
  if (text.empty()) fail_input("no data after base64,");
  if (text.size() / 4 > max_bytes / 3 + 1)  // before any work; exactly below
    fail_input("over the limit of ", human_bytes(max_bytes), " for an image");
  std::string out = from_base64(text);
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

std::string encode_data_uri(std::string_view bytes, std::string_view source) {
  const ImageFormat format = read_image_info(std::as_bytes(std::span(bytes)), source).format;
  return cat("data:image/", to_lower(image_format_name(format)), ";base64,", to_base64(bytes));
}

}  // namespace l4::tools
