// What bounds the work on grammars that come from outside. Each is far above what people write and keeps compiling
// below a second and a grammar below some 100 MB.
#pragma once

#include <cstdint>

namespace l4::grammar_limits {

inline constexpr size_t kMaxTextBytes = 1 << 20;    // of a regex, a GBNF text, all choices
inline constexpr size_t kMaxExpressions = 200'000;  // rules.h
inline constexpr size_t kMaxRules = 20'000;
inline constexpr int kMaxNesting = 100;               // groups in groups, schemas in schemas
inline constexpr size_t kMaxStates = 500'000;         // automaton.h
inline constexpr int64_t kMaxRepeat = 1'000'000'000;  // counts are counted, not unrolled
inline constexpr size_t kMaxReadings = 8'192;         // readings of one text at once
inline constexpr int64_t kMaxWork = 2'000'000;        // readings looked at for one mask or token
inline constexpr int64_t kMaxReplyWork = 50'000'000;  // and for one reply; what is remembered costs nothing
inline constexpr size_t kMaxCacheBytes = 48 << 20;    // masks and sets a grammar remembers before it forgets them

}  // namespace l4::grammar_limits
