#include "tools/eval/logits.h"

#include <unistd.h>

#include "formats/npy.h"
#include "tools/common/signals.h"
#include "tools/common/terminal.h"
#include "tools/eval/activations.h"

namespace l4::eval {

fs::path unfinished_name(const fs::path& out) {
  std::error_code ec;
  fs::path name = fs::is_symlink(out, ec) ? fs::weakly_canonical(out, ec) : out;
  name += cat(".tmp", getpid());
  return name;
}

int run_logits(const LogitsOptions& options) {
  // What may be wrong is looked at before the weights are loaded.
  LoadOptions load = options.model.load;
  std::vector<int32_t> ids = tools::read_ids(options.ids);
  load.frontend = Frontend::load(load.model_dir, load.chat_template, true);
  Prompt prompt = tools::prompt_of_ids(*load.frontend, load.model_dir, std::move(ids), options.images);
  const int64_t n_tokens = int64_t(prompt.ids.size()), vocab = load.frontend->config().text.vocab;
  const tools::RemoveAtInterrupt remove_at_interrupt(unfinished_name(options.out));
  NpyWriter writer(options.out, vocab);
  std::optional<ActivationFiles> activations;
  if (!options.activations.empty()) {
    activations.emplace(options.activations);
    load.on_activation = [&](const std::string& name, const std::vector<float>& values, const Shape& shape) {
      activations->append(name, values, shape);
    };
  }

  tools::ProgressLine progress;
  load.on_progress = [&](uint64_t done, uint64_t total) { progress.bytes("loading", done, total); };
  const std::unique_ptr<Engine> engine = Engine::load(load);
  progress.clear();

  engine->logits(std::move(prompt), [&](int64_t first, std::span<const float> rows) {
    writer.append(rows);
    progress.tokens("computing", first + int64_t(rows.size()) / vocab, n_tokens);
  });
  if (activations) activations->finish();
  writer.finish();
  return 0;
}

}  // namespace l4::eval
