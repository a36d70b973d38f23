#include "l4/stop_strings.h"

#include <algorithm>
#include <utility>

namespace l4 {

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase(stops_, "");
  std::stable_sort(stops_.begin(), stops_.end(), [](const auto& a, const auto& b) { return a.size() > b.size(); });
}

std::string StopStrings::push(std::string_view piece) {
  if (found_) return {};
  const size_t searched = waiting_.size();
  waiting_ += piece;
  const std::string_view text = waiting_;
  for (size_t end = searched + 1; end <= text.size(); ++end)
    for (const std::string& stop : stops_)
      if (text.substr(0, end).ends_with(stop)) {
        found_ = stop;
        std::string before = waiting_.substr(0, end - stop.size());
        waiting_.clear();
        return before;
      }
  const size_t keep = possible_beginning();
  std::string known = waiting_.substr(0, waiting_.size() - keep);
  waiting_.erase(0, waiting_.size() - keep);
  return known;
}

// Bytes at the end of waiting_ that may begin a stop string: whole characters, as stop strings are.
size_t StopStrings::possible_beginning() const {
  size_t longest = 0;
  for (const std::string& stop : stops_)
    for (size_t n = std::min(stop.size() - 1, waiting_.size()); n > longest; --n)
      if (waiting_.ends_with(std::string_view(stop).substr(0, n))) longest = n;
  return longest;
}

std::string StopStrings::flush() {
  return std::exchange(waiting_, {});
}

}  // namespace l4
