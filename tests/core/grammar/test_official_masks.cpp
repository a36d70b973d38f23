// Masks over the official vocabulary: right, and quick enough to be made beside the model's steps.
#include <algorithm>
#include <random>

#include "base/strings.h"
#include "core/text/official.h"
#include "grammar/grammar.h"
#include "text/special_tokens.h"

using namespace l4;
using namespace l4::test;

namespace {

const char* kSchema =
    R"({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0,
    "maximum": 150}, "tags": {"type": "array", "items": {"type": "string", "maxLength": 60}, "maxItems": 5},
    "kind": {"enum": ["cat", "dog", "catfish"]}, "seen": {"type": "string", "format": "date-time"},
    "more": {"type": "object", "additionalProperties": true}}, "required": ["name", "kind"]})";
const char* kText =
    R"({"name": "Ms. \"Whiskers\" 日本", "age": 7, "tags": ["indoor, mostly", "grey"], "kind": "catfish", )"
    R"("seen": "2024-05-06T07:08:09Z", "more": {"weight": 4.25, "friends": [{"a": null}, true]}})";

}  // namespace

TEST_CASE("grammar: masks over the official vocabulary") {
  const Tokenizer& tokenizer = official_tiktoken();
  std::vector<std::string> bytes;
  std::vector<uint8_t> special;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    special.push_back(tokenizer.is_special(id));
    bytes.push_back(special.back() ? "" : tokenizer.decode(id));
  }
  std::vector<int32_t> eos = {tokenizer.special_id(special::kEot).value(), tokenizer.special_id(special::kEom).value()};
  double begin = cpu_seconds();
  GrammarVocabPtr vocab = make_grammar_vocab(bytes, special, eos);
  double vocab_s = cpu_seconds() - begin;
  begin = cpu_seconds();
  GrammarPtr grammar = compile_json_schema(vocab, parse_json(kSchema, "schema"));
  double compile_s = cpu_seconds() - begin;

  std::vector<uint32_t> mask((bytes.size() + 31) / 32);
  std::mt19937 random(4);
  double first_max_s = 0, warm_s = 0;
  int n_masks = 0;
  for (int round = 0; round < 2; ++round) {
    GrammarMatcher matcher(grammar);
    std::vector<int32_t> ids = tokenizer.encode(kText);
    ids.push_back(eos[1]);
    for (int32_t next : ids) {
      begin = cpu_seconds();
      matcher.fill_mask(mask);
      double spent = cpu_seconds() - begin;
      if (round == 0) {
        first_max_s = std::max(first_max_s, spent);
        int n_wrong = 0;
        for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
          // All tokens near the ends of strings and numbers, a part of the others.
          if (bytes[size_t(id)].find_first_of("\"0,:]}") == std::string::npos && random() % 20 != 0) continue;
          bool expected = !bytes[size_t(id)].empty() && GrammarMatcher(matcher).accept_bytes(bytes[size_t(id)]);
          if (special[size_t(id)]) expected = matcher.may_end() && std::find(eos.begin(), eos.end(), id) != eos.end();
          n_wrong += expected != ((mask[size_t(id) / 32] >> (id % 32) & 1) != 0);
        }
        CHECK(n_wrong == 0);
      } else {
        warm_s += spent;
        ++n_masks;
      }
      REQUIRE(matcher.accept(next));
    }
    CHECK(matcher.ended());
  }
  CHECK(warm_s / n_masks < 100e-6 * kSlowdown);
  CHECK(first_max_s < 20e-3 * kSlowdown);
  MESSAGE("vocabulary ", int(vocab_s * 1e3), " ms, schema ", int(compile_s * 1e6), " us; mask: first at most ",
          int(first_max_s * 1e6), " us, then ", int(warm_s / n_masks * 1e6), " us on average");
}
