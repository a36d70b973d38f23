#include "tools/eval/task_command.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/log.h"
#include "tools/common/signals.h"
#include "tools/common/terminal.h"
#include "tools/eval/endpoint_respondent.h"
#include "tools/eval/engine_respondent.h"
#include "tools/eval/finish_run.h"
#include "tools/eval/interrupt.h"

namespace l4::eval {

namespace {

void warn_of_bad_lines(const Task& task) {
  constexpr size_t kShown = 5;
  for (size_t i = 0; i < std::min(kShown, task.bad_lines.size()); ++i)
    log_warning("line ", task.bad_lines[i].line, " of the data is left out: ", task.bad_lines[i].why);
  if (task.bad_lines.size() > kShown) log_warning("and ", task.bad_lines.size() - kShown, " other lines");
}

// Who is asked; the engine where it is one.
struct Asked {
  std::unique_ptr<Respondent> respondent;
  const Engine* engine = nullptr;
};

Asked make_respondent(const TaskOptions& o) {
  if (!o.asks_endpoint()) {
    auto respondent = std::make_unique<EngineRespondent>(o.model.load, o.concurrency.value_or(0));
    const Engine* engine = &respondent->engine();
    return {std::move(respondent), engine};
  }
  EndpointOptions endpoint;
  endpoint.endpoint = o.endpoint;
  endpoint.model = o.model.load.model_dir.string();
  endpoint.concurrency = o.concurrency.value_or(0);
  endpoint.max_attempts = int(o.max_attempts.value_or(endpoint.max_attempts));
  return {std::make_unique<EndpointRespondent>(endpoint), nullptr};
}

std::string percent(double share) {
  const int64_t tenths = std::llround(share * 1000);
  return cat(tenths / 10, ".", tenths % 10, " %");
}

// How near the run came to what the engine can do by itself.
std::string engine_line(const EngineStats& stats, double seconds) {
  if (seconds <= 0 || stats.n_steps == 0) return {};
  std::string line = cat("the engine's steps took ", percent(std::min(1.0, stats.step_seconds / seconds)),
                         " of that time, ", human_count(uint64_t(stats.step_rows / stats.n_steps)), " rows a step");
  if (stats.prefix_hit_tokens > 0)
    line += cat("; ", percent(double(stats.prefix_hit_tokens) / double(stats.prompt_tokens)),
                " of the prompts' tokens were in its prefix cache");
  return line + "\n";
}

}  // namespace

int run_task_command(const TaskOptions& o, const Task& task, Json settings) {
  tools::install_signal_handlers();
  auto ending = std::make_optional<tools::EndAtInterrupt>();
  std::optional<Gate> gate;
  if (!o.gate.empty()) gate = read_gate(o.gate);
  warn_of_bad_lines(task);
  const Prompts prompts = look_at_prompts(task);
  const RunStart start = o.resume ? RunStart::resume : o.force ? RunStart::anew : RunStart::fresh;
  RunWriter writer(o.out, start);
  const std::string model =
      o.asks_endpoint() ? o.model.load.model_dir.string() : EngineRespondent::name_of(o.model.load.model_dir);
  RunHeader header = header_of(task, model, uint64_t(o.seed.value_or(0)), std::move(settings));
  writer.check(header);  // before weights are loaded
  const Asked asked = make_respondent(o);
  const bool chats =
      std::any_of(task.items.begin(), task.items.end(), [](const Item& i) { return !i.query.turns.empty(); });
  if (asked.engine && chats && !asked.engine->frontend().chat_template())
    fail(ErrorKind::usage, o.model.load.model_dir.string(),
         ": has no chat template; --chat-template NAME gives one, or --no-chat-template does without");
  header.model = asked.respondent->model();
  header.device = asked.respondent->device();
  writer.begin(header);
  ending.reset();

  RunCounts counts;
  try {
    run_task(task, prompts, *asked.respondent, writer, counts);
  } catch (const Interrupted& interrupted) {
    log_warning(human_count(uint64_t(counts.done())), " of ", human_count(uint64_t(counts.n_items)),
                " questions are done; the same command with --resume goes on");
    tools::end_now(interrupted.exit_status());
  }
  std::string text = describe(counts, task);
  if (asked.engine) text += engine_line(asked.engine->stats(), counts.seconds);
  tools::write_stdout(text);
  return finish_run(o, gate, counts);
}

}  // namespace l4::eval
