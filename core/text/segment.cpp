#include "text/segment.h"

namespace l4 {

std::string flat_text(std::span<const TextSegment> segments) {
  std::string out;
  for (const TextSegment& segment : segments) out += segment.text;
  return out;
}

}  // namespace l4
