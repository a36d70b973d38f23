#include "grammar/vocab.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "grammar/grammar.h"

namespace l4 {

bool GrammarVocab::is_eos(int32_t id) const {
  return std::find(eos_ids.begin(), eos_ids.end(), id) != eos_ids.end();
}

std::shared_ptr<const GrammarVocab> make_grammar_vocab(std::span<const std::string> token_bytes,
                                                       std::span<const uint8_t> is_special,
                                                       std::span<const int32_t> eos_ids) {
  L4_CHECK(token_bytes.size() == is_special.size());
  auto vocab = std::make_shared<GrammarVocab>();
  vocab->size = int32_t(token_bytes.size());
  vocab->eos_ids.assign(eos_ids.begin(), eos_ids.end());
  vocab->bytes.assign(token_bytes.begin(), token_bytes.end());
  for (int32_t id = 0; id < vocab->size; ++id) {
    std::string& bytes = vocab->bytes[size_t(id)];
    if (is_special[size_t(id)] || vocab->is_eos(id)) bytes.clear();
    if (!bytes.empty()) vocab->sorted.push_back(id);
    vocab->longest = std::max(vocab->longest, uint32_t(bytes.size()));
  }
  std::sort(vocab->sorted.begin(), vocab->sorted.end(), [&](int32_t a, int32_t b) {
    int order = vocab->bytes[size_t(a)].compare(vocab->bytes[size_t(b)]);
    return order != 0 ? order < 0 : a < b;
  });
  std::vector<uint32_t> open;  // the nodes on the way to the token before
  std::string_view before;
  auto close_to = [&](size_t depth) {
    for (; open.size() > depth; open.pop_back()) vocab->nodes[open.back()].end = uint32_t(vocab->nodes.size());
  };
  for (size_t i = 0; i < vocab->sorted.size(); ++i) {
    std::string_view text = vocab->text_of(i);
    size_t common = size_t(std::mismatch(text.begin(), text.end(), before.begin(), before.end()).first - text.begin());
    close_to(common);
    for (size_t depth = common; depth < text.size(); ++depth) {
      open.push_back(uint32_t(vocab->nodes.size()));
      vocab->nodes.push_back({uint8_t(text[depth]), uint32_t(depth + 1), 0, uint32_t(i)});
    }
    before = text;
    vocab->lengths.push_back(uint16_t(std::min<size_t>(text.size(), 0xFFFF)));
  }
  close_to(0);
  vocab->nodes.push_back({0, 0, uint32_t(vocab->nodes.size() + 1), uint32_t(vocab->sorted.size())});
  return vocab;
}

}  // namespace l4
