// Finds the texts that end an answer, across the borders of the pieces in which it comes.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace l4 {

// The match that ends first counts, of those that end together the longest: so the result does not depend on how the
// text is cut into pieces. Empty stop strings never match.
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops);

  // Text that is known to belong to the answer: what could be the beginning of a stop string waits. Once one is
  // found(), the text before it, and nothing afterwards.
  std::string push(std::string_view piece);
  // The text is at its end: what still waits.
  std::string flush();

  const std::optional<std::string>& found() const { return found_; }

 private:
  size_t possible_beginning() const;

  std::vector<std::string> stops_;
  std::string waiting_;
  std::optional<std::string> found_;
};

}  // namespace l4
