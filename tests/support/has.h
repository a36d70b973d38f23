// What most tests of messages ask.
#pragma once

#include <string_view>

namespace l4::test {

inline bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

}  // namespace l4::test
