// Which tokens may come at a place. For the readings in one call, the tokens are sorted once into those that are right
// whatever called it, those that are wrong, and those that reach beyond the call's end; of the last only what is left
// of them there depends on the caller, and many tokens leave the same. (The idea is XGrammar's, arXiv 2411.15100: most
// tokens do not depend on the stack. Here the dependent ones are kept by what remains of them.)
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "grammar/readings.h"
#include "grammar/vocab.h"

namespace l4 {

// A graph of readings with the masks of its sets. Not safe for threads: hold `mutex`.
class TokenMasks {
 public:
  TokenMasks(const Automaton& automaton, const GrammarVocab& vocab);

  ReadingGraph graph;
  std::mutex mutex;

  void fill(SetId set, std::span<uint32_t> mask);
  size_t bytes() const { return bytes_ + graph.bytes(); }

 private:
  // What is left of a token, by its place in GrammarVocab::sorted, where the call ends: its bytes from `from` on.
  struct Left {
    uint32_t token, from;
  };
  // Tokens of which the same is left.
  struct Rest {
    Left left;              // of the first of them
    uint32_t common;        // bytes shared with the rest before
    uint32_t tokens_begin;  // in rest_tokens, up to the next rest's
  };
  struct LocalMask {
    std::vector<uint32_t> bits;  // tokens that are right; empty when they are few:
    std::vector<int32_t> ids;
    std::vector<Rest> rests;  // sorted by their bytes
    std::vector<uint32_t> rest_tokens;
  };
  // A mask while it is made.
  struct Draft {
    std::vector<uint32_t> bits;
    std::vector<Left> lefts;
  };

  const LocalMask& local_mask(SetId local);
  Draft walk_all(SetId local);
  Draft walk_long(SetId local, const LocalMask& far, uint32_t reach);
  LocalMask finished(Draft draft);
  static size_t tokens_end(const LocalMask& mask, size_t rest) {
    return rest + 1 < mask.rests.size() ? mask.rests[rest + 1].tokens_begin : mask.rest_tokens.size();
  }
  const std::vector<int32_t>& right_rests(SetId local, const LocalMask& mask, SetId after);
  std::string_view text_of(Left left) const { return vocab_.text_of(left.token).substr(left.from); }

  const GrammarVocab& vocab_;
  std::unordered_map<SetId, LocalMask> locals_;
  std::unordered_map<uint64_t, std::vector<int32_t>> right_rests_;  // by local set and the set after it
  size_t bytes_ = 0;
};

}  // namespace l4
