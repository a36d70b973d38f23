#include "text/stream_decoder.h"

#include "base/strings.h"

namespace l4 {

std::string StreamDecoder::push(int32_t id) {
  if (!skip_special_ || !tokenizer_->is_special(id)) waiting_ += tokenizer_->decode(id);
  size_t whole = utf8_whole_prefix(waiting_);
  std::string text = utf8_replace_invalid(std::string_view(waiting_).substr(0, whole));
  waiting_.erase(0, whole);
  return text;
}

std::string StreamDecoder::flush() {
  std::string text = utf8_replace_invalid(waiting_);
  waiting_.clear();
  return text;
}

}  // namespace l4
