// SHA-256 as 64 hexadecimal digits: how prompts and data files are told apart in results.
#pragma once

#include <string>
#include <string_view>

#include "base/file.h"
#include "vision/sha256.h"

namespace l4::eval {

std::string hex_digest(Sha256& sha);  // finishes it
std::string sha256_of(std::string_view bytes);
std::string sha256_of_file(const fs::path& path);  // Error{io} naming the path

}  // namespace l4::eval
