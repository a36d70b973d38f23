#include "grammar/char_set.h"

#include <algorithm>
#include <string>

#include "base/strings.h"

namespace l4 {

namespace {
constexpr char32_t kLast = 0x10FFFF, kSurrogateFirst = 0xD800, kSurrogateLast = 0xDFFF;
}

CharSet::CharSet(std::initializer_list<CodeRange> ranges) {
  for (CodeRange range : ranges) add(range.first, range.last);
}

CharSet CharSet::of(std::string_view ascii) {
  CharSet set;
  for (char c : ascii) set.add(char32_t(c), char32_t(c));
  return set;
}

void CharSet::add(char32_t first, char32_t last) {
  last = std::min(last, kLast);
  if (first <= kSurrogateLast && last >= kSurrogateFirst) {
    if (first < kSurrogateFirst) add(first, kSurrogateFirst - 1);
    if (last > kSurrogateLast) add(kSurrogateLast + 1, last);
    return;
  }
  if (first > last) return;
  // Everything the new range overlaps or touches becomes one range with it.
  auto begin = std::lower_bound(ranges_.begin(), ranges_.end(), first,
                                [](const CodeRange& range, char32_t c) { return range.last + 1 < c; });
  auto end = begin;
  for (; end != ranges_.end() && end->first <= last + 1; ++end) {
    first = std::min(first, end->first);
    last = std::max(last, end->last);
  }
  begin = ranges_.erase(begin, end);
  ranges_.insert(begin, {first, last});
}

void CharSet::add(const CharSet& other) {
  for (CodeRange range : other.ranges_) add(range.first, range.last);
}

CharSet CharSet::negated() const {
  CharSet out;
  char32_t next = 0;
  for (CodeRange range : ranges_) {
    if (range.first > next) out.add(next, range.first - 1);
    next = range.last + 1;
  }
  out.add(next, kLast);
  return out;
}

CharSet CharSet::both(const CharSet& other) const {
  CharSet out;
  for (size_t i = 0, j = 0; i < ranges_.size() && j < other.ranges_.size();) {
    CodeRange a = ranges_[i], b = other.ranges_[j];
    if (std::max(a.first, b.first) <= std::min(a.last, b.last)) {
      out.add(std::max(a.first, b.first), std::min(a.last, b.last));
    }
    a.last < b.last ? ++i : ++j;
  }
  return out;
}

CharSet CharSet::minus(const CharSet& other) const {
  return both(other.negated());
}

bool CharSet::contains(char32_t c) const {
  auto range = std::lower_bound(ranges_.begin(), ranges_.end(), c,
                                [](const CodeRange& r, char32_t value) { return r.last < value; });
  return range != ranges_.end() && range->first <= c;
}

// A range is cut until both ends have the same length and every byte after the first that differs runs through all
// continuation bytes; then the byte ranges of the two ends, side by side, are exact.
std::vector<Utf8Sequence> utf8_sequences(CodeRange range) {
  std::vector<Utf8Sequence> out;
  std::vector<CodeRange> todo = {range};
  while (!todo.empty()) {
    const char32_t first = todo.back().first, last = todo.back().last;
    todo.pop_back();
    if (first > last) continue;
    auto cut_at = [&](char32_t end) {  // [first, end] and the rest
      todo.push_back({end + 1, last});
      todo.push_back({first, end});
    };
    bool cut = false;
    for (char32_t end : {char32_t(0x7F), char32_t(0x7FF), char32_t(0xFFFF)}) {
      if (!cut && first <= end && last > end) {
        cut_at(end);
        cut = true;
      }
    }
    for (int bits = 6; !cut && bits <= 18 && first > 0x7F; bits += 6) {
      char32_t low = (char32_t(1) << bits) - 1;
      if ((first & ~low) == (last & ~low)) continue;
      if ((first & low) != 0) {
        cut_at(first | low);
        cut = true;
      } else if ((last & low) != low) {
        cut_at((last & ~low) - 1);
        cut = true;
      }
    }
    if (cut) continue;
    std::string a, b;
    append_utf8(a, first);
    append_utf8(b, last);
    Utf8Sequence sequence;
    for (size_t i = 0; i < a.size(); ++i) sequence.push_back({uint8_t(a[i]), uint8_t(b[i])});
    out.push_back(std::move(sequence));
  }
  return out;
}

}  // namespace l4
