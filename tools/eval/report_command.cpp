// l4-eval report: run files as tables, charts and lm-eval's JSON, and what a gate says of them.
#include "tools/eval/commands.h"

#include "tools/common/flags.h"
#include "tools/common/model_flags.h"
#include "tools/common/terminal.h"
#include "tools/eval/gate.h"
#include "tools/eval/output_file.h"
#include "tools/eval/report.h"

namespace l4::eval {

int report_main(int argc, char** argv) {
  std::vector<fs::path> runs, outputs;
  fs::path gate_path;
  tools::Flags flags("l4-eval report", "Puts results of runs side by side: scores with their errors, charts, answers.");
  flags.usage("l4-eval report RUN.jsonl ... [-o FILE ...] [--gate FILE]");
  flags.examples(
      "l4-eval report bf16.jsonl fp8.jsonl int4.jsonl -o formats.html -o formats.md\n"
      "l4-eval report run.jsonl -o results.json --gate gate.json");
  flags.positionals("RUN", "what l4-eval wrote of a run (.jsonl); of several, side by side",
                    [&](const std::string& path) { runs.emplace_back(path); });
  flags.group("Results");
  add_output_flag(flags, outputs, "a report for people (.md, .html), or lm-eval's JSON of one run (.json)");
  flags.path("--gate", "FILE", "JSON, least scores by task; the exit status is 1 where a run does not reach them",
             &gate_path);
  tools::add_log_flags(flags);
  if (const std::optional<int> status = flags.parse(argc, argv)) return *status;
  if (runs.empty()) fail(ErrorKind::usage, "expected the file of a run, found none");
  for (const fs::path& path : outputs)
    if (path.extension() == ".json" && runs.size() > 1)
      fail(ErrorKind::usage, "-o ", shown(path.string()), ": JSON is of one run, found ", runs.size());

  std::optional<Gate> gate;
  if (!gate_path.empty()) gate = read_gate(gate_path);
  std::vector<Summary> summaries;
  for (const fs::path& path : runs) {
    try {
      summaries.push_back(summarise(read_run_file(path)));
    } catch (const Error& e) {
      if (e.message().find(path.string()) == 0) throw;
      throw Error(e.kind(), cat(path.string(), ": ", e.message()));
    }
  }
  for (const fs::path& path : outputs)
    write_output(path, {[&] { return to_lm_eval_json(summaries[0]); }, [&] { return to_markdown(summaries); },
                        [&] { return to_html(summaries); }});
  tools::write_stdout(to_table(summaries));
  if (!gate) return 0;
  bool passed = true;
  for (size_t i = 0; i < summaries.size(); ++i)
    if (!passes(*gate, summaries[i], runs[i])) passed = false;
  if (passed) tools::write_stdout("gate: passed\n");
  return passed ? 0 : 1;
}

}  // namespace l4::eval
