#include "base/error.h"
#include "tools/eval/digest.h"
#include "tools/eval/task_command.h"

namespace l4::eval {

namespace {

constexpr int64_t kMost = INT32_MAX;

// Of a checkpoint that is loaded here.
constexpr const char* kOfEngine[] = {"--device",
                                     "--dtype",
                                     "--kv-cache-dtype",
                                     "--attn-dtype",
                                     "--head-dtype",
                                     "--ctx-size",
                                     "--batch-size",
                                     "--threads",
                                     "--tensor-parallel-size",
                                     "--pipeline-parallel-size",
                                     "--expert-parallel-size",
                                     "--enable-expert-parallel",
                                     "--no-cuda-graphs",
                                     "--chat-template"};
constexpr const char* kOfEndpoint[] = {"--api-key", "--insecure", "--timeout", "--max-attempts"};

void check_together(const tools::Flags& flags, const TaskOptions& o) {
  if (flags.knows("--data") && o.data.empty()) fail(ErrorKind::usage, "--data: expected the questions, found none");
  if (o.out.empty()) fail(ErrorKind::usage, "-o: expected the file to write, found none");
  if (o.out.extension() != ".jsonl")
    fail(ErrorKind::usage, "-o: expected a name that ends in .jsonl, found ", shown(o.out.string()));
  if (o.resume && o.force) fail(ErrorKind::usage, "--resume goes on with what is there, --force begins anew: not both");
  if (o.asks_endpoint()) {
    for (const char* name : kOfEngine)
      if (flags.was_typed(name))
        fail(ErrorKind::usage, name, ": is for a checkpoint that is loaded here, not for --url");
  } else {
    for (const char* name : kOfEndpoint)
      if (flags.was_typed(name)) fail(ErrorKind::usage, name, ": is for an endpoint; --url says where it is");
  }
}

template <class T>
void set_if(Json& settings, const char* name, const std::optional<T>& value) {
  if (value) settings.set(name, *value);
}

Json model_settings(const LoadOptions& load) {
  Json out{Json::Object{}};
  if (load.dtype) out.set("dtype", dtype_option_name(*load.dtype));
  if (load.kv_dtype) out.set("kv_cache_dtype", dtype_option_name(*load.kv_dtype));
  if (load.fp8_attention) out.set("attn_dtype", "fp8");
  if (load.fp8_head) out.set("head_dtype", "fp8");
  if (load.max_context > 0) out.set("max_context", load.max_context);
  if (load.topology.tp > 1) out.set("tensor_parallel_size", load.topology.tp);
  if (load.topology.pp > 1) out.set("pipeline_parallel_size", load.topology.pp);
  if (load.topology.ep > 1) out.set("expert_parallel_size", load.topology.ep);
  if (load.chat_template) out.set("chat_template", chat_template_name(*load.chat_template));
  return out;
}

}  // namespace

void add_task_flags(tools::Flags& flags, TaskOptions& o, const std::string& data_value, const std::string& data_help) {
  flags.group("Questions");
  flags.path("--data", data_value, data_help, &o.data);
  flags.number<int64_t>("--limit", "N", "at most so many (of each group, where there are any); 0: all (default)",
                        &o.limit, 0, kMost);
  flags.value("--categories", "NAME,...", "only these groups",
              [&o](const std::string& text) { o.categories = tools::parse_names(text); });
  flags.number<int64_t>("--seed", "N", "0: --limit takes the first ones (default); else a sample, the same for each N",
                        &o.seed, 0, kMost);
  flags.number<int64_t>("-n,--max-tokens", "N", "longest answer (default: as the recipe says)", &o.max_tokens, 1,
                        kMost);
  add_run_flags(flags, o);
}

void add_run_flags(tools::Flags& flags, TaskOptions& o) {
  flags.group("Result");
  flags.path("-o,--out", "OUT.jsonl",
             "what is written, a line as soon as a question is answered; OUT.json: the summary", &o.out);
  flags.toggle("--resume", "go on with OUT.jsonl; what failed is asked again", &o.resume);
  flags.toggle("--force", "begin anew where there is an OUT.jsonl", &o.force);
  flags.toggle("--report", "also OUT.md and OUT.html", &o.report);
  flags.path("--gate", "FILE", "the least scores, see README.md: the exit status says whether they are reached",
             &o.gate);
  flags.group("Endpoint");
  tools::add_endpoint_flags(flags, o.endpoint,
                            "an OpenAI endpoint is asked; -m is then the model's name there (default: its first)");
  flags.number<int64_t>("--concurrency", "N", "questions at once (default: what the engine takes; of an endpoint 32)",
                        &o.concurrency, 1, 65536);
  flags.number<int64_t>("--max-attempts", "N", "how often a question is asked before it counts as failed (default 5)",
                        &o.max_attempts, 1, 1000);
  tools::add_model_flags(flags, o.model);
  tools::add_log_flags(flags);
}

std::optional<int> parse_task_flags(tools::Flags& flags, TaskOptions& o, int argc, char** argv) {
  if (const std::optional<int> status = flags.parse(argc, argv)) return status;
  check_together(flags, o);
  if (!o.asks_endpoint()) o.model.complete();
  return std::nullopt;
}

Json common_settings(const TaskOptions& o, const std::vector<fs::path>& data_files) {
  Json settings = o.asks_endpoint() ? Json(Json::Object{}) : model_settings(o.model.load);
  set_if(settings, "limit", o.limit);
  set_if(settings, "max_tokens", o.max_tokens);
  if (!o.categories.empty()) settings.set("categories", join(o.categories, ","));
  Json data{Json::Object{}};
  for (const fs::path& file : data_files) data.set(file.filename().string(), sha256_of_file(file));
  settings.set("data_sha256", std::move(data));
  return settings;
}

}  // namespace l4::eval
