// l4-eval: the word after the name says what is measured.
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/version.h"
#include "tools/common/terminal.h"
#include "tools/entry.h"
#include "tools/eval/commands.h"

namespace {

struct Command {
  const char* name;
  int (*main)(int argc, char** argv);
  const char* purpose;
};

constexpr Command kCommands[] = {
    {"mmlu-pro", l4::eval::mmlu_pro_main, "questions of 14 subjects with up to ten options"},
    {"chartqa", l4::eval::chartqa_main, "questions about charts"},
    {"questions", l4::eval::questions_main, "your own questions, with an answer or a few that are right"},
    {"needle", l4::eval::needle_main, "what is found in long texts, by their length and the depth in them"},
    {"perplexity", l4::eval::perplexity_main, "how likely a text is, by rolling windows"},
    {"report", l4::eval::report_main, "results of runs side by side, and whether they pass a gate"},
    {"compare", l4::eval::compare_main, "two runs question by question, or two models' logits"},
    {"logits", l4::eval::logits_main,
     "logits of every prompt token as a NumPy file, to compare with another implementation"},
    {"generate", l4::eval::generate_main, "answers to many prompts, each token the likeliest"},
};

std::string usage() {
  std::string text = "usage: l4-eval WHAT [ARGUMENTS]; l4-eval WHAT --help says more\n";
  for (const Command& command : kCommands)
    text += l4::cat("  ", command.name, std::string(12 - std::string_view(command.name).size(), ' '), command.purpose,
                    "\n");
  return text + "  --version, --help\n";
}

std::string names() {
  std::vector<std::string> all;
  for (const Command& command : kCommands) all.emplace_back(command.name);
  const std::string last = all.back();
  all.pop_back();
  return l4::cat(l4::join(all, ", "), " or ", last);
}

}  // namespace

int l4_eval_main(int argc, char** argv) {
  const std::string_view word = argc > 1 ? argv[1] : "";
  for (const Command& command : kCommands)
    if (word == command.name) return command.main(argc - 1, argv + 1);
  if (word == "--version") {
    l4::tools::write_stdout(l4::version_line("l4-eval") + "\n");
    return 0;
  }
  if (word == "--help" || word == "-h") {
    l4::tools::write_stdout(usage());
    return 0;
  }
  if (word.empty()) l4::fail(l4::ErrorKind::usage, "expected what to measure: ", names());
  l4::fail(l4::ErrorKind::usage, "cannot measure ", l4::shown(word), "; expected ", names());
}
