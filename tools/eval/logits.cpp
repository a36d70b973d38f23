#include "tools/eval/logits.h"

#include "formats/npy.h"
#include "tools/common/terminal.h"

namespace l4::eval {

int run_logits(const LogitsOptions& options) {
  std::vector<int32_t> ids = tools::read_ids(options.ids);
  tools::ProgressLine progress;
  LoadOptions load = options.model.load;
  load.ids_only = true;
  load.on_progress = [&](uint64_t done, uint64_t total) { progress.bytes("loading", done, total); };
  const std::unique_ptr<Engine> engine = Engine::load(load);
  progress.clear();

  Prompt prompt = tools::prompt_of_ids(engine->frontend(), load.model_dir, std::move(ids), options.images);
  const int64_t n_tokens = int64_t(prompt.ids.size()), vocab = engine->config().text.vocab;
  NpyWriter writer(options.out, vocab);
  engine->logits(std::move(prompt), [&](int64_t first, std::span<const float> rows) {
    writer.append(rows);
    progress.tokens("computing", first + int64_t(rows.size()) / vocab, n_tokens);
  });
  writer.finish();
  return 0;
}

}  // namespace l4::eval
