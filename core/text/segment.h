// A stretch of prompt text: what a chat template wrote as a special token, or ordinary text.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace l4 {

// Ordinary text is never searched for the names of special tokens: whoever writes "<|eot|>" in a message gets the
// ordinary tokens of those seven characters. A special segment is exactly one token's name.
struct TextSegment {
  std::string text;
  bool is_special = false;
  bool operator==(const TextSegment&) const = default;
};

// The segments' text one after the other, for people and logs.
std::string flat_text(std::span<const TextSegment> segments);

}  // namespace l4
