#include "tools/eval/digest.h"

#include "base/hex.h"

namespace l4::eval {

namespace {
void update(Sha256& sha, std::string_view bytes) {
  sha.update({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
}
}  // namespace

std::string hex_digest(Sha256& sha) {
  return to_hex(sha.finish());
}

std::string sha256_of(std::string_view bytes) {
  Sha256 sha;
  update(sha, bytes);
  return hex_digest(sha);
}

std::string sha256_of_file(const fs::path& path) {
  const MappedFile file(path);
  Sha256 sha;
  sha.update({reinterpret_cast<const uint8_t*>(file.bytes().data()), file.size()});
  return hex_digest(sha);
}

}  // namespace l4::eval
