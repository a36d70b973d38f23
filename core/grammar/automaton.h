// Rules as a pushdown automaton over bytes. Every rule is a small nondeterministic automaton; an edge reads a byte,
// calls a rule (pushing where to go on), or begins a counted repetition (pushing the count). Rules that are short and
// not recursive are copied into their users: a mask that is right for a place wherever it was called from covers more
// tokens the longer the rule is. Counts are counted and never unrolled, so {1,100000} costs as much as {1,2}.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "grammar/rules.h"

namespace l4 {

using StateId = uint32_t;

struct Automaton {
  enum class EdgeKind : uint8_t {
    bytes,   // first..last, then to `target`
    none,    // to `target` at once
    call,    // the rule that begins at `target`; afterwards on at `after`
    repeat,  // repetition number `target`; afterwards on at `after`
  };
  struct Edge {
    EdgeKind kind;
    uint8_t first = 0, last = 0;
    uint32_t target = 0;
    StateId after = 0;
  };
  struct State {
    uint32_t edges_begin = 0, edges_end = 0;
    bool is_end = false;       // the rule or the repetition's body may end here
    bool reads_bytes = false;  // has an edge of kind bytes
    bool only_end() const { return is_end && edges_begin == edges_end; }
  };
  struct Repeat {
    StateId body;
    StateId after;
    uint32_t min, max;  // max: kNoMax or a number
  };
  static constexpr uint32_t kNoMax = std::numeric_limits<uint32_t>::max();

  std::vector<State> states;
  std::vector<Edge> edges;
  std::vector<Repeat> repeats;
  StateId start = 0;
  std::array<uint8_t, 256> byte_class{};  // bytes of one class are read by the same edges
  uint32_t n_byte_classes = 0;
};

// Error{usage} when nothing can match, when a rule refers to itself before it has read anything (left recursion), or
// when there would be too many states. `rules` gains helper rules.
Automaton compile_automaton(GrammarRules& rules, RuleId root);

}  // namespace l4
