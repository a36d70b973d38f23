#include "tools/eval/finish_run.h"

#include "base/error.h"
#include "base/log.h"
#include "tools/common/terminal.h"
#include "tools/eval/output_file.h"
#include "tools/eval/report.h"

namespace l4::eval {

int finish_run(const TaskOptions& o, const std::optional<Gate>& gate, const RunCounts& counts) {
  const Summary summary = summarise(read_run_file(o.out));
  for (const char* extension : {".json", ".md", ".html"})
    if (o.report || std::string_view(extension) == ".json")
      write_output(fs::path(o.out).replace_extension(extension),
                   {[&] { return to_lm_eval_json(summary); }, [&] { return to_markdown({&summary, 1}); },
                    [&] { return to_html({&summary, 1}); }});
  tools::write_stdout(to_table(summary));
  if (counts.failed > 0)
    log_warning(counts.failed, " questions failed and count neither as right nor as wrong; --resume asks them again");
  // The gate says how many may fail.
  if (gate) return passes(*gate, summary, o.out) ? 0 : 1;
  return counts.failed > 0 ? 1 : 0;
}

}  // namespace l4::eval
