#include "tools/serve/api/request_fields.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "text/special_tokens.h"

namespace l4::serve {

std::string read_model(const Fields& body, const ReadContext& context) {
  const std::vector<std::string>& names = context.settings.model_names;
  const std::optional<std::string> name = body.text("model");
  if (!name) return names.front();
  if (std::find(names.begin(), names.end(), *name) == names.end())
    throw ApiError(api_error(404, cat("model: no model is called ", shown(*name), " here; /v1/models lists them"),
                             "invalid_request_error", "model", "model_not_found"));
  return *name;
}

namespace {

int32_t token_id(const Fields& body, std::string_view key, std::optional<int64_t> id, int64_t vocab) {
  if (!id || *id < 0 || *id >= vocab)
    body.bad_value(key, "expected token ids from 0 to ", vocab - 1, id ? cat(", found ", *id) : std::string());
  return int32_t(*id);
}

void read_logit_bias(const Fields& body, int64_t vocab, GenerationOptions& options) {
  constexpr size_t kMost = 4096;
  const Json* bias = body.find("logit_bias");
  if (!bias) return;
  if (!bias->is_object()) body.wrong("logit_bias", "an object of token ids and numbers");
  if (bias->as_object().size() > kMost) body.bad_value("logit_bias", "more than ", kMost, " tokens");
  for (const auto& [key, value] : bias->as_object()) {
    const int32_t id = token_id(body, "logit_bias", parse_int(key).value_or(-1), vocab);
    if (!value.is_number() || std::abs(value.as_number()) > 100)
      body.bad_value("logit_bias", "expected numbers from -100 to 100, found ", shown_json(value));
    options.logit_bias.emplace_back(id, float(value.as_number()));
  }
}

void read_stop_ids(const Fields& body, int64_t vocab, GenerationOptions& options) {
  constexpr size_t kMost = 1024;
  const Json::Array* list = body.list("stop_token_ids");
  if (!list) return;
  if (list->size() > kMost) body.bad_value("stop_token_ids", "more than ", kMost, " tokens");
  for (const Json& id : *list)
    options.stop_ids.push_back(
        token_id(body, "stop_token_ids", id.is_integer() ? std::optional(id.as_integer()) : std::nullopt, vocab));
}

// What vLLM and OpenAI have, and what would be answered wrongly if it were ignored.
void refuse_what_is_not_offered(const Fields& body) {
  for (const char* key :
       {"bad_words", "allowed_token_ids", "logits_processors", "prompt_embeds", "truncate_prompt_tokens",
        "mm_processor_kwargs", "vllm_xargs", "kv_transfer_params", "logprob_token_ids"})
    body.not_offered(key, "leave it out");
  body.not_offered("use_beam_search", "answers are sampled", Json(false));
  body.not_offered("return_token_ids", "/tokenize gives the ids of a text", Json(false));
  body.not_offered("return_tokens_as_token_ids", "/tokenize gives the ids of a text", Json(false));
}

}  // namespace

void read_sampling(const Fields& body, const ReadContext& context, Ask& ask) {
  refuse_what_is_not_offered(body);
  const int64_t vocab = context.frontend().config().text.vocab;
  GenerationOptions& o = ask.options;
  o = context.settings.sampling.options(context.frontend());
  SamplingParams& p = o.sampling;
  p.n_logprobs = -1;  // only who asks gets them
  o.prompt_logprobs = -1;
  const auto number = [&](const char* key, double low, double high, float& into) {
    if (const std::optional<double> value = body.number(key, low, high)) into = float(*value);
  };
  number("temperature", 0, 100, p.temperature);
  number("top_p", 0, 1, p.top_p);
  number("min_p", 0, 1, p.min_p);
  number("presence_penalty", -2, 2, p.presence_penalty);
  number("frequency_penalty", -2, 2, p.frequency_penalty);
  number("repetition_penalty", 0.01, 100, p.repetition_penalty);
  if (const auto k = body.integer("top_k", -1, std::numeric_limits<int32_t>::max()))
    p.top_k = int32_t(std::max<int64_t>(*k, 0));
  const int64_t kAnySeed = std::numeric_limits<int64_t>::max();
  if (const auto seed = body.integer("seed", -kAnySeed, kAnySeed))
    p.seed = *seed == -1 ? tools::random_seed() : uint64_t(*seed);
  if (const auto n = body.integer("min_tokens", 0, context.source.max_context())) o.min_tokens = *n;
  o.ignore_eos = body.flag_or("ignore_eos", o.ignore_eos);
  o.show_special = !body.flag_or("skip_special_tokens", !o.show_special);
  ask.keep_stop_text = body.flag_or("include_stop_str_in_output", false);
  o.show_stop_id = ask.keep_stop_text;
  if (const auto priority = body.integer("priority", INT32_MIN, INT32_MAX)) o.priority = int32_t(*priority);
  o.cache_salt = body.text("cache_salt").value_or("");
  if (body.has("cache_salt") && (o.cache_salt.empty() || o.cache_salt.size() > 1024))
    body.bad_value("cache_salt", "expected 1 to 1024 bytes");
  (void)body.text("user");  // whatever it says, but a string
  read_logit_bias(body, vocab, o);
  read_stop_ids(body, vocab, o);
}

void read_stop(const Fields& body, std::string_view key, GenerationOptions& options) {
  constexpr size_t kMost = 64, kMaxBytes = 1000;
  const Json* stop = body.find(key);
  if (!stop) return;
  const Json::Array one = stop->is_string() ? Json::Array{*stop} : Json::Array{};
  if (!stop->is_string() && !stop->is_array()) body.wrong(key, "a string or a list of strings");
  const Json::Array& all = stop->is_string() ? one : stop->as_array();
  if (all.size() > kMost) body.bad_value(key, "expected at most ", kMost, " strings, found ", all.size());
  options.stop.clear();
  for (const Json& text : all) {
    if (!text.is_string()) body.wrong(key, "a string or a list of strings");
    if (text.as_string().empty() || text.as_string().size() > kMaxBytes)
      body.bad_value(key, "expected strings of 1 to ", kMaxBytes, " bytes");
    options.stop.push_back(text.as_string());
  }
}

void read_choices(const Fields& body, const ReadContext& context, Ask& ask) {
  ask.n = int(body.integer("n", 1, context.settings.max_answers).value_or(1));
  ask.stream = body.flag_or("stream", false);
  if (const std::optional<Fields> options = body.object("stream_options")) {
    if (!ask.stream) body.bad_value("stream_options", "only for a streamed answer: \"stream\" is not true");
    ask.include_usage = options->flag_or("include_usage", false);
    ask.continuous_usage = options->flag_or("continuous_usage_stats", false) && ask.include_usage;
  }
}

// ---- Tools ----------------------------------------------------------------------------------------------------------

void check_tools(const Json::Array& tools, std::string_view field) {
  constexpr size_t kMost = 256, kMaxName = 128;
  if (tools.size() > kMost) refuse(field, "invalid_value", "expected at most ", kMost, " tools, found ", tools.size());
  for (size_t i = 0; i < tools.size(); ++i) {
    const Fields tool(tools[i], cat(field, "[", i, "]"));
    if (tool.need_text("type") != "function")
      tool.bad_value("type", "expected function, found ", shown(tool.need_text("type")));
    const std::optional<Fields> function = tool.object("function");
    if (!function) tool.missing("function");
    const std::string name = function->need_text("name");
    const bool is_plain = std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
             c == '.';
    });
    if (name.empty() || name.size() > kMaxName || !is_plain)
      function->bad_value("name", "expected 1 to ", kMaxName, " letters, digits, _, - and ., found ", shown(name));
    (void)function->text("description");
    if (const Json* parameters = function->find("parameters"); parameters && !parameters->is_object())
      function->wrong("parameters", "a JSON schema of an object");
  }
}

namespace {
std::vector<std::string> names_of(const Json::Array& tools) {
  std::vector<std::string> out;
  for (const Json& tool : tools) out.push_back(tool.find("function")->find("name")->as_string());
  return out;
}
}  // namespace

ToolChoice read_tool_choice(const Fields& body) {
  const Json* choice = body.find("tool_choice");
  if (!choice) return {};
  if (choice->is_string()) {
    const std::string kind = body.one_of("tool_choice", {"auto", "none", "required"});
    return {kind == "auto"   ? ToolChoice::Kind::automatic
            : kind == "none" ? ToolChoice::Kind::none
                             : ToolChoice::Kind::required,
            {}};
  }
  if (!choice->is_object()) body.wrong("tool_choice", "none, auto, required or an object that names a function");
  const Fields named = *body.object("tool_choice");
  if (named.need_text("type") != "function")
    named.bad_value("type", "expected function, found ", shown(named.need_text("type")));
  const std::optional<Fields> function = named.object("function");
  return {ToolChoice::Kind::named, function ? function->need_text("name") : named.need_text("name")};
}

void apply_tools(const Fields& body, const ToolChoice& choice, bool parallel, const std::optional<AskedForm>& form,
                 const ReadContext& context, ChatRequest& chat, Ask& ask) {
  using Kind = ToolChoice::Kind;
  const bool forced = choice.kind == Kind::required || choice.kind == Kind::named;
  if (forced && (!chat.tools || chat.tools->empty()))
    body.bad_value("tool_choice", "a call is required, but there are no tools");
  if (!chat.tools || chat.tools->empty() || choice.kind == Kind::none) {
    chat.tools.reset();
    ask.options.grammar = context.grammars.form(form);
    return;
  }
  ask.tool_names = names_of(*chat.tools);
  ask.parallel_calls = parallel;
  if (choice.kind == Kind::named &&
      std::find(ask.tool_names.begin(), ask.tool_names.end(), choice.name) == ask.tool_names.end())
    body.bad_value("tool_choice", "no tool is called ", shown(choice.name));
  if (forced)
    ask.options.grammar = context.grammars.tool_calls(Json(*chat.tools), choice.name, parallel);
  else if (form)
    ask.options.grammar = context.grammars.form_or_calls(*form, Json(*chat.tools), parallel);
}

// ---- The prompt -----------------------------------------------------------------------------------------------------

namespace {

bool has_chat_template(const Frontend& frontend) {
  try {
    return frontend.chat_template().has_value();
  } catch (const Error&) {
    return false;  // one that we cannot render: the log said so at the start
  }
}

Prompt continued(const Frontend& frontend, ChatRequest& chat, std::span<const PreparedImage> images) {
  if (chat.messages.back().role != "assistant" || !chat.messages.back().tool_calls.empty())
    refuse("continue_final_message", "invalid_value", "the last message must be an assistant's text");
  chat.add_generation_prompt = false;
  std::vector<TextSegment> segments = frontend.render(chat);
  if (!segments.empty() && segments.back().is_special && segments.back().text == special::kEot) segments.pop_back();
  return frontend.prompt_from_ids(frontend.tokenizer().encode(segments), images);
}

}  // namespace

Prompt chat_prompt(const ReadContext& context, ChatRequest chat, bool continue_final) {
  const Frontend& frontend = context.frontend();
  if (!frontend.has_tokenizer() || !has_chat_template(frontend))
    throw ApiError(api_error(400, "this model has no chat template: /v1/completions takes plain prompts",
                             "invalid_request_error", "messages", "chat_template_missing"));
  return blaming("messages", [&] {
    std::vector<PreparedImage> images;
    if (!image_parts(chat).empty()) {
      if (!frontend.takes_images() || !context.media)
        refuse("messages", "unsupported_value", "this model takes no images");
      images = context.media->load(chat);
    }
    return continue_final ? continued(frontend, chat, images) : frontend.prompt_from_chat(chat, images);
  });
}

void check_length(const Ask& ask, const ReadContext& context, std::string_view field) {
  const int64_t most = context.source.max_context(), wanted = std::max<int64_t>(ask.options.max_tokens, 0);
  const auto too_long = [&](std::string_view param, const std::string& message) {
    throw ApiError(api_error(400, message, "invalid_request_error", std::string(param), "context_length_exceeded"));
  };
  for (const Prompt& prompt : ask.prompts) {
    const int64_t n = int64_t(prompt.ids.size());
    if (n > most || (n == most && ask.options.max_tokens != 0))
      too_long("", cat("the prompt has ", n, " tokens, which leaves no room in the context of ", most, " tokens"));
    if (wanted > most - n)
      too_long(field, cat(field, ": the prompt's ", n, " tokens and the answer's ", wanted,
                          " are more than the context of ", most, " tokens"));
  }
  if (ask.options.max_tokens >= 0 && ask.options.min_tokens > ask.options.max_tokens)
    refuse("min_tokens", "invalid_value", ask.options.min_tokens, " is more than ", field, ", ",
           ask.options.max_tokens);
}

}  // namespace l4::serve
