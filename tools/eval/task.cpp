#include "tools/eval/task.h"

#include "base/strings.h"
#include "tools/eval/digest.h"
#include "vision/image.h"

namespace l4::eval {

namespace {

// Each part with its length before it, so that no two prompts give the same bytes.
void add(Sha256& sha, std::string_view bytes) {
  const std::string length = cat(bytes.size(), ":");
  for (const std::string_view part : {std::string_view(length), bytes})
    sha.update({reinterpret_cast<const uint8_t*>(part.data()), part.size()});
}

}  // namespace

std::string prompt_hash(const Query& query) {
  Sha256 sha;
  add(sha, cat(query.turns.size()));
  for (const Query::Turn& turn : query.turns) {
    add(sha, turn.role);
    add(sha, turn.text);
  }
  add(sha, query.text);
  for (const fs::path& image : query.images) add(sha, read_file(image, ImageLimits{}.max_bytes));
  return hex_digest(sha);
}

}  // namespace l4::eval
