// Ids one by one -> pieces of text that never end inside a UTF-8 character.
#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"

namespace l4 {

// All pieces together equal the bytes of all ids decoded as Python's bytes.decode(errors="replace") would.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}

  // Text that is complete after this id; bytes of an unfinished character wait for the next id.
  std::string push(int32_t id);
  // What still waits, with U+FFFD for a character that never ended. The decoder is empty afterwards.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string waiting_;  // at most three bytes between calls
};

}  // namespace l4
