#include <algorithm>

#include "base/error.h"
#include "text/tokenizer_formats.h"

namespace l4 {

BpeTokenizer::BpeTokenizer(BpeModel model, std::vector<SpecialToken> specials, std::string_view format,
                           std::string_view source)
    : model_(std::move(model)), format_(format) {
  if (int byte = model_.missing_byte(); byte >= 0)
    fail_input(source, ": no token for the single byte ", byte, ", so not every text could be encoded");
  int32_t n_ids = model_.n_ids();
  for (const SpecialToken& token : specials) {
    if (!model_.bytes(token.id).empty())
      fail_input(source, ": special token ", shown(token.name), " has the id ", token.id, " of an ordinary token");
    n_ids = std::max(n_ids, token.id + 1);
  }
  set_special_tokens(std::move(specials), source);
  set_vocab_size(n_ids);
}

void BpeTokenizer::encode_ordinary(std::string_view utf8, std::vector<int32_t>& ids) const {
  BpeModel::Scratch scratch;
  pretokenizer_.split(utf8, [&](std::string_view piece) { model_.encode(piece, ids, scratch); });
}

}  // namespace l4
