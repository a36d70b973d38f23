// l4-eval perplexity: how likely a text is, by rolling windows as lm-eval's task "wikitext".
#pragma once

#include "tools/eval/text_documents.h"
#include "tools/eval/window_scorer.h"

namespace l4::eval {

struct PerplexityOptions {
  tools::ModelFlags model;
  EndpointScorerOptions endpoint;  // asked where it has a URL
  TextDocumentsOptions documents;
  int64_t window = 2048;  // tokens; see RollingWindows
  int64_t stride = 0;     // 0: the window
  std::optional<int32_t> prefix_id;
  fs::path out;  // JSON; empty: not written
};

struct PerplexityRun {
  RollingScore score;
  int64_t n_windows = 0;
};
// All documents through `scorer`. Error{input} for a document of fewer than two tokens, and for a token of probability
// 0.
PerplexityRun measure_perplexity(const PerplexityOptions& options, WindowScorer& scorer);

int run_perplexity(const PerplexityOptions& options);

}  // namespace l4::eval
