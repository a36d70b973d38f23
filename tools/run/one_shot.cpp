#include "tools/run/one_shot.h"

#include <cstdio>

#include "base/log.h"
#include "tools/common/signals.h"
#include "tools/run/answer.h"
#include "tools/run/chat_session.h"
#include "tools/run/prompt_cache.h"
#include "tools/run/text_tasks.h"

namespace l4::run {

using tools::write_stdout;

namespace {

Prompt make_prompt(const RunOptions& options, const Frontend& frontend) {
  if (options.ids)
    return tools::prompt_of_ids(frontend, options.model.load.model_dir, tools::read_ids(*options.ids), options.images);
  const std::string text = prompt_text(options);
  const std::vector<PreparedImage> images = tools::read_images(frontend, options.images);
  if (options.raw || !frontend.chat_template()) {
    if (options.system) fail(ErrorKind::usage, "--system: a completion has no system message");
    if (!options.raw)
      log_warning(options.model.load.model_dir.string(), ": has no chat template; completing the text as it is");
    return frontend.prompt_from_text(text, options.special || !images.empty(), images);
  }
  if (text.empty() && images.empty()) fail(ErrorKind::usage, "the prompt is empty");
  ChatSession session;
  session.set_system(options.system.value_or(""));
  for (const std::string& image : options.images) session.attach_image(image);
  session.add_user(text);
  return frontend.prompt_from_chat(session.request(), images);
}

}  // namespace

std::shared_ptr<const Frontend> load_frontend(const RunOptions& options) {
  return Frontend::load(options.model.load.model_dir, options.model.load.chat_template, options.ids.has_value());
}

std::unique_ptr<Engine> load_engine(const RunOptions& options, std::shared_ptr<const Frontend> frontend) {
  const tools::EndAtInterrupt end_at_interrupt;
  tools::ProgressLine progress;
  LoadOptions load = options.model.load;
  load.frontend = std::move(frontend);
  load.on_progress = [&](uint64_t done, uint64_t total) { progress.bytes("loading", done, total); };
  std::unique_ptr<Engine> engine = Engine::load(load);
  progress.clear();
  log_info(engine->summary());
  return engine;
}

int run_one_shot(const RunOptions& options) {
  using Clock = std::chrono::steady_clock;
  AnswerFacts facts;
  const auto ms_since = [](Clock::time_point begin) {
    return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
  };
  auto ending = std::make_optional<tools::EndAtInterrupt>();
  auto begin = Clock::now();
  const std::shared_ptr<const Frontend> loaded = load_frontend(options);
  facts.load_ms = ms_since(begin);
  const Frontend& frontend = *loaded;
  const Tokenizer* tokenizer = frontend.has_tokenizer() ? &frontend.tokenizer() : nullptr;
  if (!tokenizer && !options.output_ids && !options.json)
    fail(ErrorKind::usage, options.model.load.model_dir.string(), ": has no tokenizer: --output-ids prints token ids");

  GenerationOptions generation = options.sampling.options(frontend);
  generation.show_special = options.special;
  generation.grammar = compile_grammar(options.grammar, frontend);
  facts.model = options.model.load.model_dir.filename().string();
  facts.seed = generation.sampling.seed;
  facts.with_logprobs = generation.sampling.n_logprobs >= 0;
  facts.with_prompt_logprobs = generation.prompt_logprobs >= 0;

  Prompt prompt = make_prompt(options, frontend);
  begin = Clock::now();
  const std::unique_ptr<Engine> engine = load_engine(options, loaded);
  facts.load_ms += ms_since(begin);
  PromptCache prompt_cache(options.prompt_cache, *engine);
  ending.reset();
  log_info("seed ", facts.seed);

  const bool streams = !options.json && !options.output_ids;
  const bool on_terminal = tools::is_terminal(stdout);
  tools::ProgressLine progress;
  AnswerView view;
  view.prompt = [&](const PromptProgress& p) { progress.tokens("reading the prompt", p.n_done, p.n_total); };
  view.text = [&](std::string_view text) {
    progress.clear();
    if (streams) write_stdout(on_terminal ? tools::printable(text) : std::string(text));
  };
  const Answer answer = take_answer(engine->start(prompt, generation), view);
  progress.clear();
  prompt_cache.answered(std::move(prompt), answer);

  if (options.json) {
    write_stdout(dump_json(answer_json(answer, facts, tokenizer)) + "\n");
  } else if (options.output_ids) {
    std::vector<int32_t> ids;
    for (const TokenChoice& token : answer.tokens) ids.push_back(token.id);
    write_stdout(json_ids(ids) + "\n");
  } else if (!answer.text.ends_with('\n')) {
    write_stdout("\n");
  }
  const tools::Colors colors = tools::colors_for(stderr, options.color);
  if (!options.json && facts.with_prompt_logprobs)
    std::fprintf(stderr, "prompt:\n%s", logprobs_table(answer.prompt_logprobs, tokenizer).c_str());
  if (!options.json && facts.with_logprobs)
    std::fprintf(stderr, "answer:\n%s", logprobs_table(answer.tokens, tokenizer).c_str());
  const bool show_stats = options.stats || (streams && on_terminal && !options.no_stats);
  if (show_stats)
    std::fprintf(stderr, "%s%s%s\n", std::string(colors.dim).c_str(), stats_line(answer, engine->max_context()).c_str(),
                 std::string(colors.reset).c_str());
  std::fflush(stdout);
  prompt_cache.save();
  return answer.interrupted ? 130 : 0;
}

}  // namespace l4::run
