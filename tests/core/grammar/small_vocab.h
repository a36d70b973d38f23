// Vocabularies for grammar tests, and what a mask must be: exactly the tokens that accept_bytes takes.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "grammar/grammar.h"
#include "support/test.h"

namespace l4::test {

struct SmallVocab {
  std::vector<std::string> tokens;  // the last is the end token
  GrammarVocabPtr vocab;
  int32_t eos() const { return int32_t(tokens.size()) - 1; }
};

// All single bytes and `more`, with one special token and an id that is no token.
inline SmallVocab small_vocab(std::vector<std::string> more) {
  SmallVocab out;
  for (int byte = 0; byte < 256; ++byte) out.tokens.push_back(std::string(1, char(byte)));
  for (std::string& token : more) out.tokens.push_back(std::move(token));
  out.tokens.push_back("");
  out.tokens.push_back("\"special\"");
  out.tokens.push_back("<end>");
  std::vector<uint8_t> special(out.tokens.size(), 0);
  special[special.size() - 2] = 1;
  std::vector<int32_t> eos = {out.eos()};
  out.vocab = make_grammar_vocab(out.tokens, special, eos);
  return out;
}

// Pieces of JSON text as a tokenizer has them, some across the ends of strings and numbers.
inline SmallVocab json_vocab() {
  return small_vocab({"{\"",
                      "\": ",
                      "\":\"",
                      "\", \"",
                      "\"}",
                      "\"],",
                      "\": {\"",
                      "\": [",
                      "[[",
                      "]]",
                      "}}",
                      "}]",
                      "[{\"",
                      "true",
                      "false",
                      "null",
                      " true",
                      "tru",
                      "True",
                      "None",
                      "12",
                      "34",
                      "0.",
                      "-1",
                      "1e",
                      ".5",
                      ", ",
                      "a",
                      "ab",
                      "abc",
                      "name",
                      " name",
                      "\"name\"",
                      "e\": ",
                      "ame",
                      "\\\"",
                      "\\u00",
                      "\\n",
                      "00e9",
                      "é",
                      "\xC3",
                      "日本",
                      "\xE6\x97",
                      "abcabc",
                      "hello world",
                      "x\", \"y",
                      "1, 2",
                      "\"a\": 1",
                      "  ",
                      " {",
                      "2024",
                      "-01",
                      "abcabcabcabcabcabcabcabc",
                      "\"\"",
                      "[]",
                      "{}",
                      "\", ",
                      "\"]",
                      "1]",
                      "1}"});
}

inline std::vector<uint32_t> mask_of(GrammarMatcher& matcher, const SmallVocab& vocab) {
  std::vector<uint32_t> mask((vocab.tokens.size() + 31) / 32 + 1, 0xFFFFFFFF);
  CHECK(matcher.fill_mask(mask));
  return mask;
}
inline bool allowed(const std::vector<uint32_t>& mask, int32_t id) {
  return mask[size_t(id) / 32] >> (id % 32) & 1;
}

// Compares the mask with brute force over all tokens; returns the ids that are allowed.
inline std::vector<int32_t> checked_mask(GrammarMatcher& matcher, const SmallVocab& vocab) {
  std::vector<uint32_t> mask = mask_of(matcher, vocab);
  std::vector<int32_t> ids;
  size_t n_wrong = 0;
  for (int32_t id = 0; id < int32_t(mask.size() * 32); ++id) {
    bool expected = false;
    if (id == vocab.eos()) {
      expected = matcher.may_end();
    } else if (id < vocab.eos() - 2) {
      expected = GrammarMatcher(matcher).accept_bytes(vocab.tokens[size_t(id)]);
    }
    if (allowed(mask, id) != expected) {
      ++n_wrong;
      INFO("token ", id < int32_t(vocab.tokens.size()) ? vocab.tokens[size_t(id)] : std::string("beyond"), " expected ",
           expected);
      CHECK(n_wrong == 0);
    }
    if (expected) ids.push_back(id);
    if (id < int32_t(vocab.tokens.size())) {
      bool accepted = GrammarMatcher(matcher).accept(id);
      if (accepted != expected) CHECK(accepted == expected);
    }
  }
  return ids;
}

inline bool matches(const GrammarPtr& grammar, std::string_view text) {
  GrammarMatcher matcher(grammar);
  return matcher.accept_bytes(text) && matcher.may_end();
}

// A text the grammar allows, by random tokens; after `n_tokens` only towards the end. Empty optional: none found in
// time.
struct Walk {
  std::string text;
  bool ended = false;
};
inline Walk random_walk(const GrammarPtr& grammar, const SmallVocab& vocab, std::mt19937& random, int n_tokens,
                        bool check_masks) {
  GrammarMatcher matcher(grammar);
  Walk walk;
  for (int i = 0; i < n_tokens * 8 + 200; ++i) {
    std::vector<int32_t> ids;
    if (check_masks) {
      ids = checked_mask(matcher, vocab);
    } else {
      std::vector<uint32_t> mask = mask_of(matcher, vocab);
      for (int32_t id = 0; id <= vocab.eos(); ++id) {
        if (allowed(mask, id)) ids.push_back(id);
      }
    }
    REQUIRE(!ids.empty());  // never a dead end
    if (matcher.ended()) CHECK(ids == std::vector<int32_t>{vocab.eos()});
    bool may_end = ids.back() == vocab.eos();
    if (may_end && (i >= n_tokens || ids.size() == 1 || random() % 8 == 0)) {
      CHECK(matcher.accept(vocab.eos()));
      CHECK(matcher.ended());
      walk.ended = true;
      return walk;
    }
    if (may_end) ids.pop_back();
    int32_t id = ids[random() % ids.size()];
    if (i >= n_tokens) {  // what closes something comes first
      for (int32_t closing : ids) {
        if (vocab.tokens[size_t(closing)].find_first_of("\"]})") == 0 && vocab.tokens[size_t(closing)].size() == 1)
          id = closing;
      }
    }
    REQUIRE(matcher.accept(id));
    walk.text += vocab.tokens[size_t(id)];
  }
  return walk;
}

}  // namespace l4::test
