#include "tools/eval/generate.h"

#include <optional>

#include "formats/json.h"
#include "text/chat_template.h"
#include "tools/common/signals.h"
#include "tools/common/terminal.h"
#include "tools/eval/activations.h"
#include "tools/eval/logits.h"

namespace l4::eval {

namespace {

struct Item {
  Json id;
  Prompt prompt;
};

// An optional list of a request; `check` says whether an element is of the kind that is expected.
const Json::Array& list_of(const Json& line, const char* name, const char* expected, bool (Json::*check)() const) {
  static const Json::Array none;
  const Json* value = line.find(name);
  if (!value) return none;
  bool good = value->is_array();
  if (good)
    for (const Json& element : value->as_array()) good = good && (element.*check)();
  if (!good) fail_input(name, ": expected a list of ", expected);
  return value->as_array();
}

Item read_item(const Json& line, const fs::path& folder, const Frontend& frontend, const fs::path& model_dir) {
  if (!line.is_object()) fail_input("expected an object, found ", line.kind_name());
  Item item;
  if (const Json* id = line.find("id")) item.id = *id;
  std::vector<std::string> images;
  for (const Json& file : list_of(line, "images", "file names", &Json::is_string))
    images.push_back((folder / file.as_string()).string());
  if (line.find("messages")) {
    item.prompt = frontend.prompt_from_chat(chat_request_from_json(line), tools::read_images(frontend, images));
    return item;
  }
  std::vector<int32_t> ids;
  for (const Json& id : list_of(line, "ids", "token ids", &Json::is_integer)) {
    if (id.as_integer() < 0 || id.as_integer() > INT32_MAX) fail_input("ids: ", id.as_integer(), " is no token id");
    ids.push_back(int32_t(id.as_integer()));
  }
  if (ids.empty()) fail_input("expected \"messages\" or \"ids\"");
  item.prompt = tools::prompt_of_ids(frontend, model_dir, std::move(ids), images);
  return item;
}

std::vector<Item> read_items(const GenerateOptions& options, const Frontend& frontend) {
  std::vector<Item> items;
  size_t number = 0;
  for (const std::string& text : split(tools::read_text(options.requests), '\n')) {
    ++number;
    if (trim(text).empty()) continue;
    const std::string place = cat(options.requests.string(), ": line ", number);
    const Json line = parse_json(text, place);
    try {
      items.push_back(read_item(line, options.requests.parent_path(), frontend, options.model.load.model_dir));
    } catch (const Error& e) {
      throw Error(e.kind(), cat(place, ": ", e.message()));
    }
  }
  if (items.empty()) fail_input(options.requests.string(), ": expected requests, found none");
  return items;
}

template <class Ids>
Json json_list(const Ids& ids) {
  Json list(Json::Array{});
  for (int32_t id : ids) list.push_back(int64_t(id));
  return list;
}

// {"id", "output", "prompt_ids", "ids", "logprobs", "finish_reason", "usage", "timings"}
Json answer(Engine& engine, Item item, int64_t max_tokens) {
  Json out(Json::Object{});
  if (!item.id.is_null()) out.set("id", item.id);
  Json prompt_ids = json_list(item.prompt.ids);
  GenerationOptions options;
  options.sampling.temperature = 0;
  options.sampling.n_logprobs = 0;  // of the chosen tokens: runs that differ in the last bit differ here
  options.max_tokens = max_tokens;
  Generation generation = engine.start(std::move(item.prompt), options);
  std::string text;
  std::vector<int32_t> ids;
  Json logprobs(Json::Array{});
  Finished end;
  while (const std::optional<GenerationEvent> event = generation.next()) {
    text += event->text;
    if (event->kind == GenerationEvent::Kind::token) {
      ids.push_back(event->token.id);
      logprobs.push_back(double(event->token.logprob));
    }
    if (event->kind == GenerationEvent::Kind::finished) end = event->finished;
  }
  if (end.reason == FinishReason::error) throw Error(end.error_kind, end.error);
  out.set("output", text);
  out.set("prompt_ids", std::move(prompt_ids));
  out.set("ids", json_list(ids));
  out.set("logprobs", std::move(logprobs));
  out.set("finish_reason", finish_reason_name(end.reason));
  out.set("usage", Json::Object{{"prompt_tokens", end.usage.prompt_tokens},
                                {"cached_tokens", end.usage.cached_tokens},
                                {"completion_tokens", end.usage.completion_tokens}});
  out.set("timings", Json::Object{{"prompt_ms", end.timings.prompt_ms}, {"predicted_ms", end.timings.predicted_ms}});
  return out;
}

}  // namespace

int run_generate(const GenerateOptions& options) {
  // What may be wrong is looked at before the weights are loaded.
  LoadOptions load = options.model.load;
  load.frontend = Frontend::load(load.model_dir, load.chat_template, true);
  std::vector<Item> items = read_items(options, *load.frontend);
  const tools::RemoveAtInterrupt remove_at_interrupt(unfinished_name(options.out));
  AtomicFile out(options.out);
  std::optional<ActivationFiles> activations;  // of the request at hand
  const auto begin_activations = [&](size_t i) {
    if (!options.activations.empty()) activations.emplace(options.activations / std::to_string(i));
  };
  begin_activations(0);
  if (activations)
    load.on_activation = [&](const std::string& name, const std::vector<float>& values, const Shape& shape) {
      activations->append(name, values, shape);
    };

  tools::ProgressLine progress;
  load.on_progress = [&](uint64_t done, uint64_t total) { progress.bytes("loading", done, total); };
  const std::unique_ptr<Engine> engine = Engine::load(load);
  progress.clear();
  for (size_t i = 0; i < items.size(); ++i) {
    begin_activations(i);
    out.write(dump_json(answer(*engine, std::move(items[i]), options.max_tokens)) + "\n");
    if (activations) activations->finish();
    progress.tokens("answers", int64_t(i + 1), int64_t(items.size()));
  }
  out.commit();
  return 0;
}

}  // namespace l4::eval
