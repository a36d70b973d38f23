#include "tools/run/text_tasks.h"

#include "formats/json.h"
#include "ops/cuda_devices.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace l4::run {

using tools::write_stdout;

namespace {

constexpr uint64_t kMaxRenderBytes = 256u << 20;

int render(const RunOptions& options) {
  const fs::path& dir = options.model.load.model_dir;
  const bool is_stdin = options.render_file == "-";
  const std::string source = is_stdin ? "standard input" : options.render_file.string();
  const Json body = parse_json(tools::read_text(options.render_file), source);
  const ChatRequest request = chat_request_from_json(body);
  std::optional<ChatTemplate> which = options.model.load.chat_template;
  if (!which) which = find_chat_template(dir);
  if (!which) fail(ErrorKind::usage, dir.string(), ": has no chat template; --chat-template official|launch gives one");
  const std::vector<TextSegment> segments = render_chat(*which, request);
  if (options.task == RunOptions::Task::tokenize)
    write_stdout(json_ids(Tokenizer::load(dir)->encode(segments)) + "\n");
  else
    write_stdout(flat_text(segments));
  return 0;
}

int list_devices() {
  const CudaDevices cuda = list_cuda_devices();
  std::string out;
  for (const CudaDevice& device : cuda.devices)
    out +=
        cat("cuda:", device.index, "  ", device.name, ", ", human_bytes(device.total_bytes),
            device.usable() ? ""
                            : cat(", not usable: compute capability ", device.major, ".", device.minor, ", 9.0 needed"),
            "\n");
  if (cuda.devices.empty()) out += cat("cuda    none: ", cuda.problem, "\n");
  write_stdout(out + "cpu     always\n");
  return 0;
}

}  // namespace

std::string json_ids(const std::vector<int32_t>& ids) {
  Json list(Json::Array{});
  for (int32_t id : ids) list.push_back(int64_t(id));
  return dump_json(list);
}

std::string prompt_text(const RunOptions& options) {
  if (!options.prompt && options.files.empty()) return tools::read_text("-");
  std::string text;
  if (options.prompt) text = *options.prompt;
  for (const std::string& file : options.files) {
    if (!text.empty()) text += "\n\n";
    text += tools::read_text(file);
  }
  return text;
}

int run_text_task(const RunOptions& options) {
  const fs::path& dir = options.model.load.model_dir;
  switch (options.task) {
    case RunOptions::Task::list_devices:
      return list_devices();
    case RunOptions::Task::dry_run:
      write_stdout(describe_plan(options.model.load));
      return 0;
    case RunOptions::Task::detokenize: {
      const std::string name = options.ids ? "--ids" : "prompt";
      const std::vector<int32_t> ids = tools::read_ids(options.ids ? *options.ids : prompt_text(options), name);
      const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::load(dir);
      tools::check_ids(ids, tokenizer->vocab_size(), name);
      write_stdout(tokenizer->decode(ids, !options.special));
      return 0;
    }
    case RunOptions::Task::tokenize:
      if (options.render_file.empty()) {
        write_stdout(json_ids(Tokenizer::load(dir)->encode(prompt_text(options), options.special)) + "\n");
        return 0;
      }
      [[fallthrough]];
    case RunOptions::Task::render:
      return render(options);
    case RunOptions::Task::chat:
    case RunOptions::Task::batch:
      break;
  }
  L4_CHECK(false);
  return 1;
}

}  // namespace l4::run
