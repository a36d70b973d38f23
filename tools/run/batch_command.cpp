#include "tools/run/batch_command.h"

#include <algorithm>

#include "base/log.h"
#include "tools/common/signals.h"
#include "tools/run/batch.h"
#include "tools/run/one_shot.h"
#include "tools/run/prompt_cache.h"

namespace l4::run {

namespace {

// Some wait, read and tokenised, behind those that are answered.
int64_t max_in_flight(const Engine& engine) {
  const int64_t at_once = std::max<int64_t>(1, engine.concurrent_sequences(1));
  return at_once + at_once / 2 + 1;
}

}  // namespace

int run_batch_command(const RunOptions& options) {
  BatchOptions batch;
  batch.input = options.batch_file;
  batch.output = options.output_file;
  check_batch_files(batch);
  const std::shared_ptr<const Frontend> frontend = load_frontend(options);
  const std::unique_ptr<Engine> engine = load_engine(options, frontend);
  const PromptCache prompt_cache(options.prompt_cache, *engine);
  const fs::path& dir = options.model.load.model_dir;
  const std::unique_ptr<tools::OfflineApi> api =
      tools::make_offline_api(*engine, {dir, dir.filename().string(), options.sampling, options.media});

  tools::ProgressLine progress;
  int ended_by = 0;
  batch.max_in_flight = max_in_flight(*engine);
  batch.progress = [&](int64_t done, int64_t total, int64_t before) {
    progress.requests("batch", done, total, before);
  };
  batch.interrupted = [&] {
    if (const int signal = tools::asked_to_end(); signal != 0) ended_by = 128 + signal;
    if (tools::take_interrupts() > 0) ended_by = 130;
    return ended_by != 0;
  };
  const BatchResult result = run_batch(batch, *api);
  progress.clear();
  if (!result.finished) {
    log_warning(result.n_done, " of ", result.n_lines, " requests are done; the same command goes on from there");
    tools::end_now(ended_by);
  }
  log_info(result.n_lines, " answers in ", batch.output.string(),
           result.n_errors > 0 ? cat(", ", result.n_errors, " of them errors") : std::string());
  return 0;
}

}  // namespace l4::run
