// Sets of Unicode code points, and how they look in UTF-8.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace l4 {

struct CodeRange {
  char32_t first, last;  // both belong to it
  bool operator==(const CodeRange&) const = default;
};

// Code points 0 .. 10FFFF without the surrogates, which UTF-8 cannot write. Ranges are sorted and do not touch.
class CharSet {
 public:
  CharSet() = default;
  CharSet(std::initializer_list<CodeRange> ranges);
  static CharSet of(std::string_view ascii);
  static CharSet all() { return CharSet{{0, 0x10FFFF}}; }

  void add(char32_t first, char32_t last);
  void add(const CharSet& other);
  CharSet negated() const;
  CharSet minus(const CharSet& other) const;
  CharSet both(const CharSet& other) const;  // the intersection
  bool contains(char32_t c) const;
  bool empty() const { return ranges_.empty(); }
  const std::vector<CodeRange>& ranges() const { return ranges_; }
  bool operator==(const CharSet&) const = default;

 private:
  std::vector<CodeRange> ranges_;
};

struct ByteRange {
  uint8_t first, last;
};

// The UTF-8 of a range of code points as sequences of 1 to 4 byte ranges: a text is one code point of the range exactly
// when it matches one of them.
using Utf8Sequence = std::vector<ByteRange>;
std::vector<Utf8Sequence> utf8_sequences(CodeRange range);

}  // namespace l4
