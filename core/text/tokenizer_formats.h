// The readers behind Tokenizer::load, one a file format. `source` names the file in errors.
#pragma once

#include <memory>
#include <string_view>

#include "text/bpe.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"

namespace l4 {

std::unique_ptr<Tokenizer> load_hf_tokenizer(std::string_view json, std::string_view source);
std::unique_ptr<Tokenizer> load_tiktoken(std::string_view ranks, std::string_view source);
std::unique_ptr<Tokenizer> load_sentencepiece(std::string_view proto, std::string_view source);

// What the two byte-level formats become.
class BpeTokenizer : public Tokenizer {
 public:
  BpeTokenizer(BpeModel model, std::vector<SpecialToken> specials, std::string_view format, std::string_view source);
  using Tokenizer::SpecialToken;
  std::string_view format() const override { return format_; }

 private:
  void encode_ordinary(std::string_view utf8, std::vector<int32_t>& ids) const override;
  std::string_view ordinary_bytes(int32_t id) const override { return model_.bytes(id); }

  BpeModel model_;
  Pretokenizer pretokenizer_;
  std::string_view format_;  // a literal
};

}  // namespace l4
