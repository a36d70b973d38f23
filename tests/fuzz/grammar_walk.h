// Walks through a grammar as `choices` say and compares every mask with what the matcher accepts byte by byte.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "grammar/grammar.h"

namespace l4::fuzz {

inline const std::vector<std::string>& tokens() {
  static const std::vector<std::string> made = [] {
    std::vector<std::string> out;
    for (int byte = 0; byte < 256; ++byte) out.push_back(std::string(1, char(byte)));
    for (const char* token :
         {"{\"", "\": ", "\", \"", "\"}",      "[[",    "}}",  "true", "12", "0.",  "-1", ", ", "ab",
          "abc", "aaaa", "é",      "\xE6\x97", "\\u00", "\"]", "[]",   "f(", "=\"", ")]", "(a", "x\", \"y"}) {
      out.push_back(token);
    }
    out.push_back("");
    return out;
  }();
  return made;
}

inline const GrammarVocabPtr& vocab() {
  static const GrammarVocabPtr made = [] {
    std::vector<uint8_t> special(tokens().size(), 0);
    std::vector<int32_t> eos = {int32_t(tokens().size()) - 1};
    return make_grammar_vocab(tokens(), special, eos);
  }();
  return made;
}

// Compiles and walks; errors are Error{usage} of one line.
template <class Compile>
void walk(const Compile& compile, std::string_view choices) {
  try {
    GrammarMatcher matcher(compile());
    std::vector<uint32_t> mask((tokens().size() + 31) / 32);
    for (size_t step = 0; step < 12; ++step) {
      matcher.fill_mask(mask);
      std::vector<int32_t> allowed;
      for (int32_t id = 0; id < int32_t(tokens().size()) - 1; ++id) {
        bool in_mask = mask[size_t(id) / 32] >> (id % 32) & 1;
        if (in_mask != GrammarMatcher(matcher).accept_bytes(tokens()[size_t(id)])) std::abort();
        if (in_mask) allowed.push_back(id);
      }
      if (allowed.empty() != matcher.ended() || (allowed.empty() && !matcher.may_end())) std::abort();
      if (allowed.empty()) return;
      size_t choice = step < choices.size() ? uint8_t(choices[step]) * 7 : step;
      if (!matcher.accept(allowed[choice % allowed.size()])) std::abort();
    }
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::internal || e.message().find('\n') != std::string::npos) std::abort();
  }
}

// The input's first line says how to walk, the others are the grammar.
struct Input {
  Input(const uint8_t* data, size_t size) : text(reinterpret_cast<const char*>(data), size) {
    size_t end = std::min(text.find('\n'), text.size());
    choices = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  std::string_view choices, text;
};

}  // namespace l4::fuzz
