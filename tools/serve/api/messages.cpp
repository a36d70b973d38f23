#include "tools/serve/api/messages.h"

#include <algorithm>

namespace l4::serve {

// ---- Reading --------------------------------------------------------------------------------------------------------

namespace {

ContentPart read_image(const Fields& block) {
  const std::optional<Fields> source = block.object("source");
  if (!source) block.missing("source");
  const std::string type = source->need_text("type");
  if (type == "url") return {ContentPart::Kind::image, {}, source->need_text("url")};
  if (type != "base64") source->bad_value("type", "expected base64 or url, found ", shown(type));
  return {ContentPart::Kind::image,
          {},
          cat("data:", source->need_text("media_type"), ";base64,", source->need_text("data"))};
}

// "content" of a message or a tool's result: a string, or blocks, each given to `take`.
template <class Take>
void read_blocks(const Fields& holder, std::string_view key, Take&& take) {
  const Json* content = holder.find(key);
  if (!content) return;
  if (!content->is_array()) holder.wrong(key, "a string or a list of blocks");
  for (size_t i = 0; i < content->as_array().size(); ++i) {
    const Fields block(content->as_array()[i], cat(holder.path(key), "[", i, "]"));
    take(block, block.need_text("type"));
  }
}

std::string read_text_blocks(const Fields& holder, std::string_view key) {
  const Json* content = holder.find(key);
  if (!content) return {};
  if (content->is_string()) return content->as_string();
  std::string text;
  read_blocks(holder, key, [&](const Fields& block, const std::string& type) {
    if (type != "text") block.bad_value("type", "expected text, found ", shown(type));
    if (!text.empty()) text += "\n";
    text += block.need_text("text");
  });
  return text;
}

void read_user(const Fields& message, ChatRequest& chat) {
  if (const Json* content = message.find("content"); content && content->is_string()) {
    chat.messages.push_back({"user", content->as_string(), {}});
    return;
  }
  std::vector<ContentPart> parts;
  read_blocks(message, "content", [&](const Fields& block, const std::string& type) {
    if (type == "text") {
      parts.push_back({ContentPart::Kind::text, block.need_text("text"), {}});
    } else if (type == "image") {
      parts.push_back(read_image(block));
    } else if (type == "tool_result") {
      // A result answers the turn before, so it stands before what the user says.
      chat.messages.push_back({"tool", read_text_blocks(block, "content"), {}});
    } else {
      block.bad_value("type", "expected text, image or tool_result, found ", shown(type));
    }
  });
  if (!parts.empty()) chat.messages.push_back({"user", std::move(parts), {}});
}

void read_assistant(const Fields& message, ChatRequest& chat) {
  ChatMessage out{"assistant", std::string(), {}};
  std::string& text = std::get<std::string>(out.content);
  if (const Json* content = message.find("content"); content && content->is_string()) {
    text = content->as_string();
  } else {
    read_blocks(message, "content", [&](const Fields& block, const std::string& type) {
      if (type == "text") {
        text += block.need_text("text");
      } else if (type == "tool_use") {
        const Json* input = block.find("input");
        if (input && !input->is_object()) block.wrong("input", "an object");
        out.tool_calls.push_back({block.need_text("name"), input ? *input : Json(Json::Object{})});
      } else if (type != "thinking" && type != "redacted_thinking") {  // another model's, which ours never sees
        block.bad_value("type", "expected text or tool_use, found ", shown(type));
      }
    });
  }
  chat.messages.push_back(std::move(out));
}

ChatRequest read_messages(const Fields& body) {
  ChatRequest chat;
  if (const std::string system = read_text_blocks(body, "system"); !system.empty())
    chat.messages.push_back({"system", system, {}});
  const Json::Array* messages = body.list("messages");
  if (!messages) body.missing("messages");
  if (messages->empty()) body.bad_value("messages", "expected at least one message");
  for (size_t i = 0; i < messages->size(); ++i) {
    const Fields message((*messages)[i], cat("messages[", i, "]"));
    const std::string role = message.need_text("role");
    if (!message.has("content")) message.missing("content");
    if (role == "user")
      read_user(message, chat);
    else if (role == "assistant")
      read_assistant(message, chat);
    else
      message.bad_value("role", "expected user or assistant, found ", shown(role));
  }
  if (chat.messages.empty()) body.bad_value("messages", "expected at least one message with content");
  return chat;
}

// {"name", "description", "input_schema"} -> OpenAI's shape, which the chat template shows.
void read_message_tools(const Fields& body, ChatRequest& chat) {
  const Json::Array* tools = body.list("tools");
  if (!tools) return;
  Json::Array out;
  for (size_t i = 0; i < tools->size(); ++i) {
    const Fields tool((*tools)[i], cat("tools[", i, "]"));
    if (const std::string type = tool.text("type").value_or("custom"); type != "custom")
      refuse(tool.path("type"), "unsupported_value", "this server runs no tools itself, such as ", shown(type));
    Json function(Json::Object{{"name", tool.need_text("name")}});
    if (const auto description = tool.text("description")) function.set("description", *description);
    if (const Json* schema = tool.find("input_schema")) {
      if (!schema->is_object()) tool.wrong("input_schema", "a JSON schema of an object");
      function.set("parameters", *schema);
    }
    out.push_back(Json::Object{{"type", "function"}, {"function", std::move(function)}});
  }
  check_tools(out, "tools");
  chat.tools = std::move(out);
}

ToolChoice read_message_tool_choice(const Fields& body, bool& parallel) {
  const std::optional<Fields> choice = body.object("tool_choice");
  if (!choice) return {};
  parallel = !choice->flag_or("disable_parallel_tool_use", false);
  const std::string type = choice->one_of("type", {"auto", "any", "tool", "none"});
  if (type == "tool") return {ToolChoice::Kind::named, choice->need_text("name")};
  return {type == "auto"  ? ToolChoice::Kind::automatic
          : type == "any" ? ToolChoice::Kind::required
                          : ToolChoice::Kind::none,
          {}};
}

void read_conversation(const Fields& body, const ReadContext& context, Ask& ask) {
  ChatRequest chat = read_messages(body);
  read_message_tools(body, chat);
  std::optional<AskedForm> form;
  const std::optional<Fields> config = body.object("output_config");
  if (const auto format = config ? config->object("format") : body.object("output_format"))
    form = read_format(*format);
  bool parallel = true;
  const ToolChoice choice = read_message_tool_choice(body, parallel);
  apply_tools(body, choice, parallel, form, context, chat, ask);
  // An assistant's message at the end is the beginning of the answer.
  const bool continues = chat.messages.back().role == "assistant" && chat.messages.back().tool_calls.empty();
  ask.prompts.push_back(chat_prompt(context, std::move(chat), continues));
}

}  // namespace

Ask MessagesDialect::read(const Json& json, const ReadContext& context, std::unique_ptr<Dialect>& dialect) {
  const Fields body(json);
  Ask ask;
  ask.model = read_model(body, context);
  dialect.reset(new MessagesDialect(ask.model));
  body.not_offered("mcp_servers", "this server runs no tools itself");
  body.not_offered("container", "this server runs no tools itself");
  ask.stream = body.flag_or("stream", false);
  read_sampling(body, context, ask);
  read_stop(body, "stop_sequences", ask.options);
  const auto max_tokens = body.integer("max_tokens", 1, INT64_MAX);
  if (!max_tokens) body.missing("max_tokens");
  ask.options.max_tokens = *max_tokens;
  read_conversation(body, context, ask);
  check_length(ask, context, "max_tokens");
  return ask;
}

int64_t count_message_tokens(const Json& json, const ReadContext& context) {
  const Fields body(json);
  (void)read_model(body, context);
  Ask ask;
  read_conversation(body, context, ask);
  return int64_t(ask.prompts[0].ids.size());
}

// ---- Writing --------------------------------------------------------------------------------------------------------

namespace {

const char* stop_reason_name(const Answer& answer) {
  if (answer.end == AnswerEnd::length) return "max_tokens";
  if (answer.end == AnswerEnd::calls) return "tool_use";
  return answer.stop_text ? "stop_sequence" : "end_turn";
}

Json message_usage(const Usage& u) {
  return Json(Json::Object{{"input_tokens", u.prompt_tokens - u.cached_tokens},
                           {"cache_creation_input_tokens", 0},
                           {"cache_read_input_tokens", u.cached_tokens},
                           {"output_tokens", u.completion_tokens}});
}

Json text_block(std::string_view text) {
  return Json(Json::Object{{"type", "text"}, {"text", text}});
}

Json call_block(const AnsweredCall& call, Json input) {
  return Json(Json::Object{
      {"type", "tool_use"}, {"id", cat("toolu_", call.id)}, {"name", call.name}, {"input", std::move(input)}});
}

void send(const char* type, Json::Object members, Exchange& out) {
  members.insert(members.begin(), {"type", Json(type)});
  out.send_event(event_text(Json(std::move(members))), type);
}

Json error_object(const ErrorBody& error) {
  const struct {
    int status;
    const char* type;
  } types[] = {{401, "authentication_error"}, {403, "permission_error"}, {404, "not_found_error"},
               {413, "request_too_large"},    {429, "rate_limit_error"}, {503, "overloaded_error"}};
  const char* type = error.status < 500 ? "invalid_request_error" : "api_error";
  for (const auto& row : types)
    if (row.status == error.status) type = row.type;
  return Json(Json::Object{{"type", type}, {"message", utf8_replace_invalid(error.message)}});
}

}  // namespace

Json MessagesDialect::message(Json content, const Answer* answer) const {
  Json out(Json::Object{{"id", id_}, {"type", "message"}, {"role", "assistant"}, {"model", model_}});
  out.set("content", std::move(content));
  out.set("stop_reason", answer ? Json(stop_reason_name(*answer)) : Json());
  out.set("stop_sequence", answer && answer->stop_text ? Json(*answer->stop_text) : Json());
  return out;
}

std::string MessagesDialect::whole(const Ask&, const std::vector<Answer>& answers) {
  const Answer& answer = answers[0];
  Json content(Json::Array{});
  if (!answer.text.empty()) content.push_back(text_block(answer.text));
  for (const AnsweredCall& call : answer.calls)
    content.push_back(call_block(call, parse_json(call.arguments, "arguments")));
  Json out = message(std::move(content), &answer);
  out.set("usage", message_usage(answer.usage));
  return event_text(out);
}

void MessagesDialect::begin(const Answer& answer, Exchange& out) {
  has_begun_ = true;
  Json opening = message(Json(Json::Array{}), nullptr);
  opening.set("usage", message_usage({answer.usage.prompt_tokens, 0, 0}));
  send("message_start", {{"message", std::move(opening)}}, out);
}

void MessagesDialect::close_block(Exchange& out) {
  if (open_ != Block::none) send("content_block_stop", {{"index", n_blocks_ - 1}}, out);
  open_ = Block::none;
}

void MessagesDialect::open_block(Json block, Exchange& out) {
  close_block(out);
  send("content_block_start", {{"index", n_blocks_++}, {"content_block", std::move(block)}}, out);
}

void MessagesDialect::delta(const Ask&, const std::vector<Answer>& answers, const Delta& delta, Exchange& out) {
  const Answer& answer = answers[0];
  if (!has_begun_ && (answer.usage.completion_tokens > 0 || delta.ended)) begin(answer, out);
  if (!delta.text.empty()) {
    if (open_ != Block::text) open_block(text_block(""), out);
    open_ = Block::text;
    send("content_block_delta",
         {{"index", n_blocks_ - 1}, {"delta", Json::Object{{"type", "text_delta"}, {"text", delta.text}}}}, out);
  }
  for (const CallDelta& piece : delta.calls) {
    if (piece.is_new) open_block(call_block(answer.calls[piece.call], Json(Json::Object{})), out);
    open_ = Block::call;
    if (piece.arguments.empty()) continue;
    send("content_block_delta",
         {{"index", n_blocks_ - 1},
          {"delta", Json::Object{{"type", "input_json_delta"}, {"partial_json", piece.arguments}}}},
         out);
  }
}

void MessagesDialect::end(const Ask&, const std::vector<Answer>& answers, Exchange& out) {
  const Answer& answer = answers[0];
  close_block(out);
  send("message_delta",
       {{"delta", Json::Object{{"stop_reason", stop_reason_name(answer)},
                               {"stop_sequence", answer.stop_text ? Json(*answer.stop_text) : Json()}}},
        {"usage", message_usage(answer.usage)}},
       out);
  send("message_stop", {}, out);
}

void MessagesDialect::broken(const ErrorBody& error, Exchange& out) {
  send("error", {{"error", error_object(error)}}, out);
}

HttpResponse MessagesDialect::refusal(const ErrorBody& error) {
  return anthropic_error_response(error);
}

HttpResponse anthropic_error_response(const ErrorBody& error) {
  HttpResponse response = error_response(error);
  response.body = event_text(Json(Json::Object{{"type", "error"}, {"error", error_object(error)}}));
  return response;
}

}  // namespace l4::serve
