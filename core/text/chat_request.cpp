// A chat request's JSON -> ChatRequest. Every error names the field as a client wrote it.
#include <array>

#include "base/error.h"
#include "base/strings.h"
#include "text/chat_template.h"

namespace l4 {

namespace {

template <class... Parts>
[[noreturn]] void refuse(const std::string& field, const Parts&... what) {
  fail(ErrorKind::usage, field, ": ", what...);
}

const std::string& need_string(const Json& object, std::string_view name, const std::string& field) {
  const Json* value = object.find(name);
  if (!value) refuse(cat(field, ".", name), "missing");
  if (!value->is_string()) refuse(cat(field, ".", name), "expected a string, found ", value->kind_name());
  return value->as_string();
}

void optional_bool(const Json& body, std::string_view name, bool& out) {
  const Json* value = body.find(name);
  if (!value || value->is_null()) return;
  if (!value->is_bool()) refuse(std::string(name), "expected true or false, found ", value->kind_name());
  out = value->as_bool();
}

void optional_tools(const Json& body, std::string_view name, std::optional<Json::Array>& out) {
  const Json* value = body.find(name);
  if (!value || value->is_null()) return;
  if (!value->is_array()) refuse(std::string(name), "expected a list, found ", value->kind_name());
  for (size_t i = 0; i < value->as_array().size(); ++i)
    if (!value->as_array()[i].is_object())
      refuse(cat(name, "[", i, "]"), "expected an object, found ", value->as_array()[i].kind_name());
  out = value->as_array();
}

ContentPart read_part(const Json& part, const std::string& field) {
  if (part.is_string()) return {ContentPart::Kind::text, part.as_string(), {}};
  if (!part.is_object()) refuse(field, "expected an object, found ", part.kind_name());
  const std::string& type = need_string(part, "type", field);
  if (type == "text") return {ContentPart::Kind::text, need_string(part, "text", field), {}};
  if (type == "image") {
    for (const char* name : {"url", "image"})
      if (const Json* address = part.find(name); address && !address->is_null())
        return {ContentPart::Kind::image, {}, need_string(part, name, field)};
    return {ContentPart::Kind::image, {}, {}};
  }
  if (type == "image_url") {
    const Json* address = part.find("image_url");
    if (address && address->is_object())
      return {ContentPart::Kind::image, {}, need_string(*address, "url", field + ".image_url")};
    return {ContentPart::Kind::image, {}, need_string(part, "image_url", field)};
  }
  refuse(field + ".type", "expected text, image or image_url, found ", shown(type));
}

ChatMessage::Content read_content(const Json& message, const std::string& role, const std::string& field) {
  const Json* content = message.find("content");
  if (role == "tool" || role == "ipython") {
    if (!content) refuse(field, "missing");
    if (content->is_string()) return content->as_string();
    return *content;
  }
  if (!content || content->is_null()) {
    if (role == "assistant") return std::string();  // as beside tool calls
    refuse(field, content ? "null is for an assistant's message only" : "missing");
  }
  if (content->is_string()) return content->as_string();
  if (!content->is_array()) refuse(field, "expected a string or a list of parts, found ", content->kind_name());
  std::vector<ContentPart> parts;
  for (size_t i = 0; i < content->as_array().size(); ++i)
    parts.push_back(read_part(content->as_array()[i], cat(field, "[", i, "]")));
  return parts;
}

Json read_arguments(const Json& function, const std::string& field) {
  const Json* arguments = function.find("arguments");
  if (!arguments || arguments->is_null()) return Json(Json::Object{});
  if (arguments->is_object()) return *arguments;
  if (!arguments->is_string())
    refuse(field, "expected an object or a string that holds one, found ", arguments->kind_name());
  if (trim(arguments->as_string()).empty()) return Json(Json::Object{});
  Json parsed;
  try {
    parsed = parse_json(arguments->as_string(), field);
  } catch (const Error& error) {
    fail(ErrorKind::usage, error.message());
  }
  if (!parsed.is_object()) refuse(field, "expected an object in the string, found ", parsed.kind_name());
  return parsed;
}

// OpenAI's {"type": "function", "id", "function": {"name", "arguments"}} or {"name", "arguments"} alone.
std::vector<ToolCall> read_tool_calls(const Json& message, const std::string& role, const std::string& field) {
  const Json* calls = message.find("tool_calls");
  if (!calls || calls->is_null()) return {};
  if (!calls->is_array()) refuse(field, "expected a list, found ", calls->kind_name());
  if (!calls->as_array().empty() && role != "assistant") refuse(field, "only an assistant's message has tool calls");
  std::vector<ToolCall> out;
  for (size_t i = 0; i < calls->as_array().size(); ++i) {
    const Json& call = calls->as_array()[i];
    std::string at = cat(field, "[", i, "]");
    if (!call.is_object()) refuse(at, "expected an object, found ", call.kind_name());
    const Json* function = call.find("function");
    if (function) at += ".function";
    if (!function) function = &call;
    if (!function->is_object()) refuse(at, "expected an object, found ", function->kind_name());
    out.push_back({need_string(*function, "name", at), read_arguments(*function, at + ".arguments")});
  }
  return out;
}

ChatMessage read_message(const Json& message, const std::string& field) {
  if (!message.is_object()) refuse(field, "expected an object, found ", message.kind_name());
  constexpr std::array kRoles = {"system", "developer", "user", "assistant", "tool", "ipython"};
  std::string role = need_string(message, "role", field);
  bool known = false;
  for (const char* name : kRoles) known = known || role == name;
  if (!known)
    refuse(field + ".role", "expected system, developer, user, assistant, tool or ipython, found ", shown(role));
  if (role == "developer") role = "system";
  ChatMessage::Content content = read_content(message, role, field + ".content");
  std::vector<ToolCall> calls = read_tool_calls(message, role, field + ".tool_calls");
  return {std::move(role), std::move(content), std::move(calls)};
}

}  // namespace

ChatRequest chat_request_from_json(const Json& body) {
  if (!body.is_object()) refuse("request", "expected a JSON object, found ", body.kind_name());
  const Json* messages = body.find("messages");
  if (!messages) refuse("messages", "missing");
  if (!messages->is_array()) refuse("messages", "expected a list, found ", messages->kind_name());
  if (messages->as_array().empty()) refuse("messages", "expected at least one message");
  ChatRequest request;
  for (size_t i = 0; i < messages->as_array().size(); ++i)
    request.messages.push_back(read_message(messages->as_array()[i], cat("messages[", i, "]")));
  optional_tools(body, "tools", request.tools);
  optional_tools(body, "custom_tools", request.custom_tools);
  optional_bool(body, "add_generation_prompt", request.add_generation_prompt);
  optional_bool(body, "tools_in_user_message", request.tools_in_user_message);
  return request;
}

}  // namespace l4
