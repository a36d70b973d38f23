// One text of a wanted length in which needles are hidden; the asked one goes where it is told to.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "tools/eval/needle.h"

namespace l4::eval {

struct Needle {
  std::string prompt;               // the whole user message
  std::vector<std::string> values;  // wanted ones, the first of them at the depth
};

// The text of one sample and length: its filler and all needles but the asked one are the same at every depth.
class NeedleText {
 public:
  // `length`: tokens of the whole prompt as `count` counts them. Error{usage} where the needles do not fit.
  NeedleText(const NeedleOptions& options, const CountQuery& count, Filler& filler, uint64_t sample, int64_t length);

  // `depth` in percent. Exactly `length` tokens, or the most below it that padding words reach.
  Needle at(double depth);
  Query query(const std::string& prompt) const;

 private:
  std::string line(const std::string& name, const std::string& value) const;
  std::string question() const;
  std::string text(size_t place, const std::string& needle, int64_t padding) const;
  int64_t tokens(size_t place, const std::string& needle, int64_t padding) const;
  std::string new_value(Draws& draws);
  void fill(Filler& filler);
  void take_sentences(Filler& filler, size_t n);
  size_t place_of(double depth) const;

  const NeedleOptions& options_;
  const CountQuery& count_;
  const uint64_t sample_;
  const int64_t length_;
  std::string name_;                 // of the asked key; empty: there is one key only
  std::vector<std::string> others_;  // needles
  std::vector<double> other_depths_;
  std::vector<std::string> other_values_;  // of the asked key
  std::set<std::string> used_;
  std::vector<std::string> lines_;  // filler and the other needles
};

}  // namespace l4::eval
