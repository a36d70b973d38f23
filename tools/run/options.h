// What the command line of l4-run says, as plain data.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tools/common/media/media.h"
#include "tools/common/model_flags.h"
#include "tools/common/sampling_flags.h"
#include "tools/common/terminal.h"
#include "tools/run/grammar_flags.h"
#include "tools/run/prompt_cache.h"

namespace l4::run {

struct RunOptions {
  enum class Task { chat, tokenize, detokenize, render, dry_run, list_devices, batch };
  Task task = Task::chat;

  tools::ModelFlags model;
  tools::SamplingFlags sampling;

  std::optional<std::string> prompt, system, ids;
  std::vector<std::string> files, images;  // "-" is standard input
  fs::path render_file;
  fs::path batch_file, output_file;
  tools::MediaOptions media;  // of the batch
  GrammarFlags grammar;
  PromptCacheFlags prompt_cache;
  std::shared_ptr<const Grammar> compiled_grammar;  // in a chat, once the vocabulary is known
  bool interactive = false;  // chat, whatever was asked before
  bool raw = false;          // completion without a template
  bool special = false;      // special tokens by their names, in raw text and in answers

  bool json = false, output_ids = false;  // what a one-shot answer looks like
  bool stats = false, no_stats = false;
  tools::ColorMode color = tools::ColorMode::automatic;
  fs::path history_file;
  bool no_history = false;
};

}  // namespace l4::run
