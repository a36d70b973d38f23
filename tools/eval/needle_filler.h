// Text to hide something in: sentences made from word lists by a seed, as many as are wanted.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace l4::eval {

enum class FillerKind {
  sentences,  // short and plain, of the kind that the demo model was trained on
  essay,      // long ones, of subordinate clauses
};
FillerKind parse_filler_kind(std::string_view name);  // sentences|essay; Error{usage}
const char* filler_kind_name(FillerKind kind);

// Numbers that are the same with every standard library, which std::uniform_int_distribution's are not.
class Draws {
 public:
  explicit Draws(std::initializer_list<uint64_t> seeds);
  uint64_t below(uint64_t n) { return random_() % n; }  // n is small: the bias does not matter
  const char* of(const std::vector<const char*>& words) { return words[below(words.size())]; }

 private:
  std::mt19937_64 random_;
};

// Sentence i is the same however many are asked for: a short text is the beginning of a long one.
class Filler {
 public:
  Filler(FillerKind kind, uint64_t seed, uint64_t sample);
  const std::string& sentence(size_t i);

 private:
  std::string next();

  FillerKind kind_;
  Draws draws_;
  std::vector<std::string> sentences_;
};

}  // namespace l4::eval
