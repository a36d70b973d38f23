#include "tools/common/grammar_vocab.h"

namespace l4::tools {

GrammarVocabPtr grammar_vocab(const Frontend& frontend) {
  if (!frontend.has_tokenizer()) return nullptr;
  const Tokenizer& tokenizer = frontend.tokenizer();
  const ModelConfig& config = frontend.config();
  const size_t n = size_t(config.text.vocab);  // the tokenizer may have fewer: the rest is no text
  std::vector<std::string> bytes(n);
  std::vector<uint8_t> is_special(n, 0);
  for (size_t id = 0; id < n && id < size_t(tokenizer.vocab_size()); ++id) {
    is_special[id] = tokenizer.is_special(int32_t(id));
    if (!is_special[id]) bytes[id] = tokenizer.decode(int32_t(id));
  }
  const std::vector<int32_t>& eos = config.generation.eos_ids.empty() ? config.eos_ids : config.generation.eos_ids;
  return make_grammar_vocab(bytes, is_special, eos);
}

}  // namespace l4::tools
