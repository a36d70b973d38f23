#include "tools/common/model_flags.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

#include "base/log.h"
#include "base/paths.h"
#include "engine/sequence.h"
#include "tools/common/signals.h"
#include "vision/tiling.h"

namespace l4::tools {

namespace {

// Many more than there are cores only wait for each other, so long that nothing seems to happen.
int most_threads() {
  constexpr int kMost = 1024;  // that LoadOptions takes
  return std::clamp(8 * int(std::min(std::thread::hardware_concurrency(), 1024u)), 512, kMost);
}

}  // namespace

void add_type_flags(Flags& flags, const TypeTargets& to) {
  flags.value("--dtype", "auto|bfloat16|float32", "of activations; auto: as the checkpoint says",
              [to](const std::string& name) { *to.dtype = parse_dtype_option(name); });
  flags.value("--kv-cache-dtype", "auto|bf16|fp8", "of the KV cache; auto: fp8 where config.json asks for it, else as activations",
              [to](const std::string& name) { *to.kv_dtype = parse_kv_dtype_option(name); });
  flags.value("--attn-dtype", "auto|fp8", "of attention's weights, where the checkpoint does not quantise them",
              [to](const std::string& name) { *to.fp8_attention = parse_fp8_option(name); });
  flags.value("--head-dtype", "auto|fp8", "the same of the output head's",
              [to](const std::string& name) { *to.fp8_head = parse_fp8_option(name); });
}

void add_model_flags(Flags& flags, ModelFlags& model) {
  LoadOptions& load = model.load;
  flags.group("Model");
  flags.path("-m,--model", "DIR", "folder of the checkpoint; without it, the built-in demo", &load.model_dir);
  flags.positional("DIR", "the same", [&load, &flags](const std::string& path) {
    if (load.model_dir.empty() || !flags.was_typed("--model"))
      load.model_dir = path;
    else if (load.model_dir != fs::path(path))
      fail(ErrorKind::usage, "two models given, ", shown(load.model_dir.string()), " and ", shown(path));
  });
  add_load_flags(flags, model);
}

void add_load_flags(Flags& flags, ModelFlags& model) {
  LoadOptions& load = model.load;
  flags.value("-dev,--device", "auto|cpu|cuda",
              "where it runs; auto: on GPUs where there are any, of which CUDA_VISIBLE_DEVICES chooses",
              [&load](const std::string& name) { load.device = parse_device(name); });
  add_type_flags(flags, {&load.dtype, &load.kv_dtype, &load.fp8_attention, &load.fp8_head});
  flags.value("-c,--ctx-size,--max-model-len", "N",
              "context in tokens, like 8192 or 1M; 0 or auto: what the model has, or fits",
              [&load](const std::string& text) {
                const std::optional<uint64_t> n = text == "auto" ? 0 : parse_size(text);
                if (!n) wrong_value("a number of tokens like 8192, 32K or 1M, or auto", text);
                load.max_context = int64_t(*n);
              });
  flags.size("-b,--batch-size,--max-num-batched-tokens", "largest step while a prompt is read, in tokens",
             &load.batch_tokens, 1);
  flags.number<int>("-t,--threads", "N", "of the CPU backend; 0: one per core", &model.threads_, 0, most_threads());
  flags.number<int>("-tp,--tensor-parallel-size", "N", "split each layer over N devices", &model.tp_, 1, 1024);
  flags.number<int>("-pp,--pipeline-parallel-size", "N", "split the layers over N groups of devices", &model.pp_, 1,
                    1024);
  flags.number<int>("-ep,--expert-parallel-size", "N", "split the experts of each layer into N groups", &model.ep_, 1,
                    1024);
  flags.toggle("--enable-expert-parallel", "-ep as large as -tp", &model.enable_ep_);
  flags.toggle("--no-cuda-graphs,--enforce-eager", "issue every step's kernels anew: for comparing", &model.no_graphs_);
  flags.value("--chat-template", "official|launch", "instead of the checkpoint's own template",
              [&load](const std::string& name) { load.chat_template = parse_chat_template_name(name); });
}

void add_engine_flags(Flags& flags, ModelFlags& model) {
  LoadOptions& load = model.load;
  flags.group("Engine");
  flags.number<int64_t>("-np,--parallel,--max-num-seqs", "N", "answers written at once; default 256 on GPUs, 16 on the CPU",
                        &model.max_num_seqs_, 1, 1 << 20);
  flags.toggle("--enable-prefix-caching,!--no-enable-prefix-caching,--cache-prompt,!--no-cache-prompt",
               "keep the KV cache of what was computed for prompts that begin like it (default on)", &load.prefix_cache);
  flags.value("--speculative", "off|ngram", "guess tokens from what was said before: faster for edits and quotes",
              [&model](const std::string& name) {
                if (name != "off" && name != "ngram") wrong_value("off or ngram", name);
                model.ngram_ = name == "ngram";
              });
  flags.number<int>("--num-speculative-tokens,--spec-draft-n-max", "N", "most of them in a step (default 5)",
                    &model.drafts_, 1, 32);
  flags.toggle("--batch-invariant", "GPUs: the same bits whatever is computed beside a request, at some cost",
               &load.batch_invariant);
}

void ModelFlags::complete() {
  constexpr int kUsualDrafts = 5;
  if (drafts_ && !ngram_) fail(ErrorKind::usage, "--num-speculative-tokens goes with --speculative ngram");
  load.ngram_speculation = ngram_ ? drafts_.value_or(kUsualDrafts) : 0;
  load.max_num_seqs = max_num_seqs_.value_or(load.max_num_seqs);
  load.threads = threads_.value_or(0);
  load.cuda_graphs = !no_graphs_;
  load.topology.tp = tp_.value_or(1);
  load.topology.pp = pp_.value_or(1);
  load.topology.ep = ep_.value_or(enable_ep_ ? load.topology.tp : 1);
  if (load.model_dir.empty()) {
    load.model_dir = demo_model_dir();
    is_demo = true;
    return;
  }
  std::error_code ec;
  if (!fs::exists(load.model_dir, ec)) fail(ErrorKind::io, load.model_dir.string(), ": no such folder");
  if (!fs::is_directory(load.model_dir, ec))
    fail(ErrorKind::io, load.model_dir.string(), ": not a folder; -m takes the folder of a checkpoint");
}

void add_log_flags(Flags& flags) {
  flags.group("Messages");
  const char* usual = log_level() == LogLevel::info ? "info" : "warning";
  flags.value("--log-level", "error|warning|info|debug", cat("what is said on standard error (default ", usual, ")"),
              [](const std::string& name) {
                const char* const names[] = {"error", "warning", "info", "debug"};
                const auto found = std::find(std::begin(names), std::end(names), name);
                if (found == std::end(names)) wrong_value("error, warning, info or debug", name);
                set_log_level(LogLevel(found - std::begin(names)));
              });
  flags.count("-v,--verbose", "more of it; -vv: all",
              [at = log_level()](int n) {
                set_log_level(n > 1 || at >= LogLevel::info ? LogLevel::debug : LogLevel::info);
              });
}

// ---- input ----------------------------------------------------------------------------------------------------------

namespace {

constexpr uint64_t kMaxTextBytes = 256u << 20;

std::string read_stream(int fd, const std::string& name) {
  const EndAtInterrupt end_at_interrupt;
  std::string text;
  char part[1 << 16];
  for (;;) {
    const ssize_t n = read(fd, part, sizeof part);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(ErrorKind::io, name, ": ", std::strerror(errno));
    if (n == 0) return text;
    text.append(part, size_t(n));
    if (text.size() > kMaxTextBytes) fail_input(name, ": larger than ", human_bytes(kMaxTextBytes));
  }
}

}  // namespace

std::string read_text(const fs::path& path) {
  const bool is_stdin = path == "-";
  const std::string name = is_stdin ? "standard input" : path.string();
  std::string text = is_stdin ? read_stream(STDIN_FILENO, name) : read_file(path, kMaxTextBytes);
  if (!is_valid_utf8(text)) fail_input(name, ": not UTF-8 text");
  return text;
}

std::vector<int32_t> read_ids(const std::string& text, const std::string& name) {
  const bool is_file = !text.empty() && text[0] == '@';
  const std::string source = is_file ? text.substr(1) + ": " : name.empty() ? "" : name + ": ";
  std::string words = is_file ? read_text(text.substr(1)) : text;
  for (char& c : words)
    if (c == ',' || c == '[' || c == ']' || c == '\n' || c == '\t' || c == '\r') c = ' ';
  std::vector<int32_t> ids;
  for (const std::string& word : split(words, ' ')) {
    if (word.empty()) continue;
    const std::optional<int64_t> id = parse_int(word);
    if (!id || *id < 0 || *id > INT32_MAX)
      fail(ErrorKind::usage, source, "expected token ids like 1,2,3, found ", shown(word));
    ids.push_back(int32_t(*id));
  }
  if (ids.empty()) fail(ErrorKind::usage, source, "expected token ids like 1,2,3, found none");
  return ids;
}

void check_ids(const std::vector<int32_t>& ids, int64_t vocab, const std::string& name) {
  for (int32_t id : ids)
    if (id >= vocab) fail(ErrorKind::usage, name, ": token id ", id, " is outside the vocabulary of ", vocab);
}

PreparedImage read_image(const Frontend& frontend, const fs::path& path) {
  const std::string bytes = read_file(path, ImageLimits{}.max_bytes);
  return frontend.prepare_image(std::as_bytes(std::span(bytes)), path.string());
}

std::vector<PreparedImage> read_images(const Frontend& frontend, const std::vector<std::string>& paths) {
  std::vector<PreparedImage> images;
  for (const std::string& path : paths) images.push_back(read_image(frontend, path));
  return images;
}

Prompt prompt_of_ids(const Frontend& frontend, const fs::path& model_dir, std::vector<int32_t> ids,
                     const std::vector<std::string>& image_paths) {
  const ModelConfig& config = frontend.config();
  check_ids(ids, config.text.vocab, "--ids");
  const bool is_expanded =
      config.image_token_id >= 0 && std::find(ids.begin(), ids.end(), config.image_token_id) != ids.end();
  if (!is_expanded || !config.vision)
    return frontend.prompt_from_ids(std::move(ids), read_images(frontend, image_paths));
  const TilingConfig tiling = load_tiling_config(model_dir, config.vision->image_size);
  Prompt prompt{std::move(ids), {}};
  for (const std::string& path : image_paths) {
    const std::string bytes = read_file(path, ImageLimits{}.max_bytes);
    auto image =
        std::make_shared<const ImageTiles>(preprocess(decode_image(std::as_bytes(std::span(bytes)), path), tiling));
    prompt.images.push_back({{image, &image->pixels}, image->n_tiles, image->digest});
  }
  locate_images(prompt.ids, prompt.images, config.image_token_id, config.vision->tokens_per_tile());  // do they fit
  return prompt;
}

}  // namespace l4::tools
