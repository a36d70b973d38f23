// Long-context recall: numbers hidden in a long text, one of them (or several) asked for. As in RULER a key may have
// others beside it, and several values. One needle, "The pass key is 48213.", is the pass key test.
//
// A cell is a length and a depth: the length is the whole prompt's, chat template included, to the token; the depth is
// where the asked needle begins within the filler, to the nearest sentence. All other needles stand where the seed
// says. Nothing here is looked at but the seed, the options and the tokenizer.
#pragma once

#include <functional>
#include <vector>

#include "tools/common/heat_map.h"
#include "tools/eval/needle_filler.h"
#include "tools/eval/record.h"
#include "tools/eval/task.h"

namespace l4::eval {

struct NeedleOptions {
  std::vector<int64_t> lengths;  // of the prompt, in tokens
  std::vector<double> depths;    // percent of the filler: 0 is its beginning
  int64_t keys = 1;              // hidden ones, of which one is asked
  int64_t values = 1;            // of the asked key: all are wanted
  int64_t samples = 1;           // texts for each cell
  uint64_t seed = 0;
  FillerKind filler = FillerKind::sentences;
  bool chat = true;  // else the text is continued: for base models
  std::optional<int64_t> max_tokens;
};
int64_t answer_tokens(const NeedleOptions& options);  // max_tokens, or what an answer needs

// Tokens of the prompt that a model gets for a query.
using CountQuery = std::function<int64_t(const Query&)>;
// Where nobody can count: four bytes a token.
int64_t tokens_by_bytes(const Query& query);

// Items in the order in which they should be asked: sample by sample, in it the longest text first, in it the deepest
// needle first. The first prompt of a text then has all of its filler in its beginning, and every later one (a needle
// further up, a shorter text) begins like it up to its own needle: with a prefix cache only the rest is computed, and
// none waits for any other than the first. Item ids "4K/50/0" (length, depth, sample), groups "4K/50".
// Metrics: "recall", the share of the wanted numbers that the answer holds, and "exact": those and no other.
// Error{usage} naming the option, also for a text too short for its needles.
Task needle_task(const NeedleOptions& options, const CountQuery& count_tokens,
                 const std::function<void(int64_t done, int64_t total)>& on_progress = {});

// Numbers of three digits or more, in order: "48,213" is 48213.
std::vector<std::string> numbers_in(std::string_view answer);

// Lengths by depths, the mean recall of each cell. Questions without an answer count as nothing.
tools::HeatMap needle_heat_map(const RunFile& run);
std::string needle_table(const RunFile& run);  // the same for a terminal

}  // namespace l4::eval
