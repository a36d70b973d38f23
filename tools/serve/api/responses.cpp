#include "tools/serve/api/responses.h"

#include <algorithm>
#include <ctime>

#include "tools/serve/api/logprobs.h"

namespace l4::serve {

// ---- Reading --------------------------------------------------------------------------------------------------------

namespace {

void refuse_what_is_not_stored(const Fields& body) {
  body.not_offered("previous_response_id", "responses are not stored; send the whole conversation as input");
  body.not_offered("conversation", "conversations are not stored; send the whole conversation as input");
  body.not_offered("background", "answers are not stored; stream instead", Json(false));
  body.not_offered("prompt", "prompt templates are not stored");
  body.not_offered("truncation", "what does not fit is refused", Json("disabled"));
  body.not_offered("max_tool_calls", "this server runs no tools itself");
}

ContentPart read_part(const Fields& part) {
  const std::string type = part.need_text("type");
  if (type == "input_text" || type == "output_text" || type == "text")
    return {ContentPart::Kind::text, part.need_text("text"), {}};
  if (type == "refusal") return {ContentPart::Kind::text, part.need_text("refusal"), {}};
  if (type != "input_image")
    part.bad_value("type", "expected input_text, input_image or output_text, found ", shown(type));
  part.not_offered("file_id", "files are not stored; give image_url");
  return {ContentPart::Kind::image, {}, part.need_text("image_url")};
}

void read_message(const Fields& item, ChatRequest& chat) {
  std::string role = item.need_text("role");
  if (role == "developer") role = "system";
  if (role != "system" && role != "user" && role != "assistant")
    item.bad_value("role", "expected user, assistant, system or developer, found ", shown(role));
  const Json* content = item.find("content");
  if (!content) item.missing("content");
  if (content->is_string()) {
    chat.messages.push_back({role, content->as_string(), {}});
    return;
  }
  const Json::Array* list = item.list("content");
  std::vector<ContentPart> parts;
  for (size_t i = 0; i < list->size(); ++i)
    parts.push_back(read_part(Fields((*list)[i], cat(item.path("content"), "[", i, "]"))));
  chat.messages.push_back({role, std::move(parts), {}});
}

// Calls that follow one another, or the assistant's text, are one turn to the chat template.
void read_call(const Fields& item, ChatRequest& chat) {
  ToolCall call{item.need_text("name"), Json(Json::Object{})};
  const std::string field = item.path("arguments");
  if (const std::string text = item.need_text("arguments"); !trim(text).empty())
    call.arguments = blaming(field, [&] { return parse_json(text, field, {.max_depth = 64}); });
  if (!call.arguments.is_object()) item.bad_value("arguments", "expected an object in the string");
  if (chat.messages.empty() || chat.messages.back().role != "assistant")
    chat.messages.push_back({"assistant", std::string(), {}});
  chat.messages.back().tool_calls.push_back(std::move(call));
}

std::string read_result(const Fields& item) {
  const Json* output = item.find("output");
  if (!output) item.missing("output");
  if (output->is_string()) return output->as_string();
  std::string text;
  const Json::Array* parts = item.list("output");
  for (size_t i = 0; i < parts->size(); ++i) {
    const Fields part((*parts)[i], cat(item.path("output"), "[", i, "]"));
    if (const std::string type = part.need_text("type"); type != "input_text" && type != "output_text")
      part.bad_value("type", "expected input_text, found ", shown(type));
    text += part.need_text("text");
  }
  return text;
}

ChatRequest read_input(const Fields& body) {
  ChatRequest chat;
  if (const auto instructions = body.text("instructions"); instructions && !instructions->empty())
    chat.messages.push_back({"system", *instructions, {}});
  const Json* input = body.find("input");
  if (!input) body.missing("input");
  if (input->is_string()) {
    chat.messages.push_back({"user", input->as_string(), {}});
    return chat;
  }
  const Json::Array* items = body.list("input");
  for (size_t i = 0; i < items->size(); ++i) {
    const Fields item((*items)[i], cat("input[", i, "]"));
    const std::string type = item.text("type").value_or("message");
    if (type == "message")
      read_message(item, chat);
    else if (type == "function_call")
      read_call(item, chat);
    else if (type == "function_call_output")
      chat.messages.push_back({"tool", read_result(item), {}});
    else if (type != "reasoning")  // another model's
      item.bad_value("type", "expected message, function_call or function_call_output, found ", shown(type));
  }
  if (chat.messages.empty()) body.bad_value("input", "expected at least one item");
  return chat;
}

// {"type": "function", "name", "parameters", ...} -> with a "function" of its own, which the chat template shows.
void read_response_tools(const Fields& body, ChatRequest& chat) {
  const Json::Array* tools = body.list("tools");
  if (!tools) return;
  Json::Array out;
  for (size_t i = 0; i < tools->size(); ++i) {
    const Fields tool((*tools)[i], cat("tools[", i, "]"));
    if (const std::string type = tool.need_text("type"); type != "function")
      refuse(tool.path("type"), "unsupported_value", "this server runs no tools itself, such as ", shown(type));
    Json function(Json::Object{{"name", tool.need_text("name")}});
    for (const char* key : {"description", "parameters"})
      if (const Json* value = tool.find(key)) function.set(key, *value);
    out.push_back(Json::Object{{"type", "function"}, {"function", std::move(function)}});
  }
  check_tools(out, "tools");
  chat.tools = std::move(out);
}

bool wants_logprobs(const Fields& body) {
  bool wanted = false;
  if (const Json::Array* include = body.list("include"))
    for (const Json& what : *include) wanted = wanted || what == Json("message.output_text.logprobs");
  return wanted;
}

}  // namespace

Ask ResponsesDialect::read(const Json& json, const ReadContext& context, std::unique_ptr<Dialect>& dialect) {
  const Fields body(json);
  Ask ask;
  ask.model = read_model(body, context);
  refuse_what_is_not_stored(body);
  ask.stream = body.flag_or("stream", false);
  read_sampling(body, context, ask);
  read_stop(body, "stop", ask.options);
  if (const auto n = body.integer("max_output_tokens", 1, INT64_MAX)) ask.options.max_tokens = *n;
  const auto top = body.integer("top_logprobs", 0, context.settings.max_logprobs);
  ask.tokens = wants_logprobs(body) || top.value_or(0) > 0;
  if (ask.tokens) ask.options.sampling.n_logprobs = int32_t(top.value_or(0));

  ChatRequest chat = read_input(body);
  read_response_tools(body, chat);
  std::optional<AskedForm> form = read_form(body);
  if (const std::optional<Fields> text = body.object("text"))
    if (const std::optional<Fields> format = text->object("format"))
      if (std::optional<AskedForm> asked = read_format(*format)) form = std::move(asked);
  apply_tools(body, read_tool_choice(body), body.flag_or("parallel_tool_calls", true), form, context, chat, ask);
  ask.prompts.push_back(chat_prompt(context, std::move(chat), false));
  check_length(ask, context, "max_output_tokens");
  dialect.reset(new ResponsesDialect(json, ask, context.frontend().tokenizer(), ask.tokens));
  return ask;
}

// ---- Writing --------------------------------------------------------------------------------------------------------

ResponsesDialect::ResponsesDialect(const Json& body, const Ask& ask, const Tokenizer& tokenizer, bool logprobs)
    : tokenizer_(tokenizer),
      logprobs_(logprobs),
      id_("resp_" + random_id()),
      message_id_("msg_" + random_id()),
      created_(std::time(nullptr)),
      echoed_(Json::Object{}) {
  const auto echo = [&](const char* key, Json otherwise) {
    const Json* given = body.find(key);
    echoed_.set(key, given && !given->is_null() ? *given : std::move(otherwise));
  };
  echo("instructions", Json());
  echo("metadata", Json(Json::Object{}));
  echo("tools", Json(Json::Array{}));
  echo("tool_choice", Json("auto"));
  echo("text", Json(Json::Object{{"format", Json::Object{{"type", "text"}}}}));
  echo("max_output_tokens", Json());
  echoed_.set("parallel_tool_calls", ask.parallel_calls);
  echoed_.set("temperature", double(ask.options.sampling.temperature));
  echoed_.set("top_p", double(ask.options.sampling.top_p));
  echoed_.set("previous_response_id", Json());
  echoed_.set("truncation", "disabled");
  echoed_.set("store", false);
  echoed_.set("background", false);
}

Json ResponsesDialect::response(const Ask& ask, const char* status, Json output) const {
  Json out(Json::Object{{"id", id_},
                        {"object", "response"},
                        {"created_at", created_},
                        {"status", status},
                        {"error", Json()},
                        {"incomplete_details", Json()},
                        {"model", ask.model},
                        {"output", std::move(output)}});
  for (const auto& [key, value] : echoed_.as_object()) out.set(key, value);
  out.set("usage", Json());
  return out;
}

Json ResponsesDialect::ended(const Ask& ask, const Answer& answer, Json output) const {
  const bool cut = answer.end == AnswerEnd::length;
  Json out = response(ask, cut ? "incomplete" : "completed", std::move(output));
  if (cut) out.set("incomplete_details", Json::Object{{"reason", "max_output_tokens"}});
  const Usage& u = answer.usage;
  out.set("usage", Json::Object{{"input_tokens", u.prompt_tokens},
                                {"input_tokens_details", Json::Object{{"cached_tokens", u.cached_tokens}}},
                                {"output_tokens", u.completion_tokens},
                                {"output_tokens_details", Json::Object{{"reasoning_tokens", 0}}},
                                {"total_tokens", u.prompt_tokens + u.completion_tokens}});
  return out;
}

Json ResponsesDialect::text_part(const std::string& text, Json logprobs) const {
  return Json(Json::Object{
      {"type", "output_text"}, {"text", text}, {"annotations", Json::Array{}}, {"logprobs", std::move(logprobs)}});
}

Json ResponsesDialect::message_item(const char* status, Json content) const {
  return Json(Json::Object{{"id", message_id_},
                           {"type", "message"},
                           {"status", status},
                           {"role", "assistant"},
                           {"content", std::move(content)}});
}

Json ResponsesDialect::call_item(const AnsweredCall& call, const char* status, std::string arguments) const {
  return Json(Json::Object{{"id", cat("fc_", call.id)},
                           {"type", "function_call"},
                           {"status", status},
                           {"call_id", cat("call_", call.id)},
                           {"name", call.name},
                           {"arguments", std::move(arguments)}});
}

std::string ResponsesDialect::whole(const Ask& ask, const std::vector<Answer>& answers) {
  const Answer& answer = answers[0];
  const char* status = answer.end == AnswerEnd::length ? "incomplete" : "completed";
  Json output(Json::Array{});
  if (!answer.text.empty() || answer.calls.empty()) {
    Json logprobs = logprobs_ ? chat_logprobs(answer.tokens, tokenizer_) : Json(Json::Array{});
    output.push_back(message_item(status, Json(Json::Array{text_part(answer.text, std::move(logprobs))})));
  }
  for (const AnsweredCall& call : answer.calls) output.push_back(call_item(call, "completed", call.arguments));
  return event_text(ended(ask, answer, std::move(output)));
}

void ResponsesDialect::send(const char* type, Json::Object members, Exchange& out) {
  members.insert(members.begin(), {{"type", Json(type)}, {"sequence_number", Json(n_events_++)}});
  out.send_event(event_text(Json(std::move(members))), type);
}

void ResponsesDialect::accepted(const Ask& ask, Exchange& out) {
  send("response.created", {{"response", response(ask, "in_progress", Json(Json::Array{}))}}, out);
  send("response.in_progress", {{"response", response(ask, "in_progress", Json(Json::Array{}))}}, out);
}

void ResponsesDialect::open_message(Exchange& out) {
  const Json index(int64_t(output_.as_array().size()));
  open_ = Item::message;
  text_.clear();
  send("response.output_item.added",
       {{"output_index", index}, {"item", message_item("in_progress", Json(Json::Array{}))}}, out);
  send("response.content_part.added",
       {{"item_id", message_id_},
        {"output_index", index},
        {"content_index", 0},
        {"part", text_part("", Json(Json::Array{}))}},
       out);
}

void ResponsesDialect::close_item(const Answer& answer, Exchange& out) {
  if (open_ == Item::none) return;
  const Json index(int64_t(output_.as_array().size()));
  const bool cut = answer.end == AnswerEnd::length;
  Json item;
  if (open_ == Item::message) {
    const Json logprobs =
        logprobs_ ? chat_logprobs(std::span(answer.tokens).subspan(message_token_), tokenizer_) : Json(Json::Array{});
    message_token_ = answer.tokens.size();
    const Json part = text_part(text_, logprobs);
    const auto place = [&](Json::Object more) {
      more.insert(more.begin(), {{"item_id", Json(message_id_)}, {"output_index", index}, {"content_index", Json(0)}});
      return more;
    };
    send("response.output_text.done", place({{"text", text_}, {"logprobs", logprobs}}), out);
    send("response.content_part.done", place({{"part", part}}), out);
    item = message_item(cut ? "incomplete" : "completed", Json(Json::Array{part}));
    message_id_ = "msg_" + random_id();
  } else {
    const AnsweredCall& call = answer.calls[call_];
    send(
        "response.function_call_arguments.done",
        {{"item_id", cat("fc_", call.id)}, {"output_index", index}, {"name", call.name}, {"arguments", call.arguments}},
        out);
    item = call_item(call, "completed", call.arguments);
  }
  send("response.output_item.done", {{"output_index", index}, {"item", item}}, out);
  output_.push_back(std::move(item));
  open_ = Item::none;
}

void ResponsesDialect::delta(const Ask&, const std::vector<Answer>& answers, const Delta& delta, Exchange& out) {
  const Answer& answer = answers[0];
  const bool has_logprobs = logprobs_ && answer.tokens.size() > delta.first_token;
  if (!delta.text.empty() || has_logprobs) {
    if (open_ == Item::call) close_item(answer, out);
    if (open_ == Item::none) open_message(out);
    text_ += delta.text;
    send("response.output_text.delta",
         {{"item_id", message_id_},
          {"output_index", int64_t(output_.as_array().size())},
          {"content_index", 0},
          {"delta", delta.text},
          {"logprobs", has_logprobs ? chat_logprobs(std::span(answer.tokens).subspan(delta.first_token), tokenizer_)
                                    : Json(Json::Array{})}},
         out);
  }
  for (const CallDelta& piece : delta.calls) {
    const AnsweredCall& call = answer.calls[piece.call];
    if (piece.is_new) {
      close_item(answer, out);
      open_ = Item::call;
      call_ = piece.call;
      send("response.output_item.added",
           {{"output_index", int64_t(output_.as_array().size())}, {"item", call_item(call, "in_progress", "")}}, out);
    }
    if (piece.arguments.empty()) continue;
    send("response.function_call_arguments.delta",
         {{"item_id", cat("fc_", call.id)},
          {"output_index", int64_t(output_.as_array().size())},
          {"delta", piece.arguments}},
         out);
  }
}

void ResponsesDialect::end(const Ask& ask, const std::vector<Answer>& answers, Exchange& out) {
  const Answer& answer = answers[0];
  if (open_ == Item::none && output_.as_array().empty()) open_message(out);  // an empty answer is one too
  close_item(answer, out);
  const char* type = answer.end == AnswerEnd::length ? "response.incomplete" : "response.completed";
  send(type, {{"response", ended(ask, answer, output_)}}, out);
}

void ResponsesDialect::broken(const ErrorBody& error, Exchange& out) {
  send("error", {{"code", error.code}, {"message", utf8_replace_invalid(error.message)}, {"param", Json()}}, out);
}

}  // namespace l4::serve
