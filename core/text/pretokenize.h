// Splits text into the pieces that byte-pair encoding works on, by the regular expression of Llama 4's tokenizer
// (llama4-spec 5.1; the same in Meta's tokenizer.py and in tokenizer.json).
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string_view>

namespace l4 {

// The expression as checkpoints spell it: what a tokenizer.json must carry to be accepted.
extern const std::string_view kLlama4SplitPattern;

// Immutable, shared by threads.
class Pretokenizer {
 public:
  Pretokenizer();
  ~Pretokenizer();
  Pretokenizer(const Pretokenizer&) = delete;
  Pretokenizer& operator=(const Pretokenizer&) = delete;

  // Calls piece() for each piece of valid UTF-8, in order; together they are the whole text.
  void split(std::string_view utf8, const std::function<void(std::string_view)>& piece) const;

 private:
  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
};

}  // namespace l4
