#include "text/chat_template.h"

#include "base/error.h"
#include "base/strings.h"
#include "text/python_text.h"
#include "text/special_tokens.h"
#include "text/template_text.h"

namespace l4 {

namespace {

constexpr int kToolIndent = 4;  // tojson(indent=4)

bool is_tool_result(const ChatMessage& message) {
  return message.role == "tool" || message.role == "ipython";
}

Json to_json(const ContentPart& part) {
  if (part.kind == ContentPart::Kind::image) return Json(Json::Object{{"type", "image"}});
  return Json(Json::Object{{"type", "text"}, {"text", part.text}});
}

Json to_json(const ChatMessage::Content& content) {
  if (const std::string* text = std::get_if<std::string>(&content)) return Json(*text);
  if (const Json* value = std::get_if<Json>(&content)) return *value;
  Json::Array parts;
  for (const ContentPart& part : std::get<std::vector<ContentPart>>(content)) parts.push_back(to_json(part));
  return Json(std::move(parts));
}

bool has_image(const ChatMessage& message) {
  if (const auto* parts = std::get_if<std::vector<ContentPart>>(&message.content)) {
    for (const ContentPart& part : *parts)
      if (part.kind == ContentPart::Kind::image) return true;
  } else if (const Json* result = std::get_if<Json>(&message.content); result && result->is_array()) {
    for (const Json& part : result->as_array()) {
      const Json* type = part.find("type");
      if (type && (*type == Json("image") || *type == Json("image_url"))) return true;
    }
  }
  return false;
}

template <class... Parts>
[[noreturn]] void refuse(size_t message, std::string_view field, const Parts&... what) {
  fail(ErrorKind::usage, "messages[", message, "].", field, ": ", what...);
}

// What the two templates share: the segments written so far, and how a message's header, content and end look.
class Renderer {
 public:
  explicit Renderer(const ChatRequest& request) : request_(request) {
    if (request.messages.empty()) fail(ErrorKind::usage, "messages: expected at least one message");
    for (size_t i = 0; i < request.messages.size(); ++i) {
      const ChatMessage& m = request.messages[i];
      if (!m.tool_calls.empty() && m.role != "assistant")
        refuse(i, "tool_calls", "only an assistant's message has tool calls");
      if (std::holds_alternative<Json>(m.content) && !is_tool_result(m))
        refuse(i, "content", "expected a string or a list of parts");
      if (has_image(m) && is_tool_result(m))
        refuse(i, "content", "the chat template cannot show an image in a tool's result");
    }
  }

 protected:
  void special(std::string_view name) { segments_.push_back({std::string(name), true}); }
  void text(std::string_view ordinary) {
    if (ordinary.empty()) return;
    if (segments_.empty() || segments_.back().is_special) segments_.push_back({});
    segments_.back().text += ordinary;
  }
  void header(std::string_view role) {
    special(special::kHeaderStart);
    text(role);
    special(special::kHeaderEnd);
    text("\n\n");
  }
  void content(const ChatMessage& message, bool strip_parts) {
    if (const std::string* whole = std::get_if<std::string>(&message.content)) return text(*whole);
    for (const ContentPart& part : std::get<std::vector<ContentPart>>(message.content)) {
      if (part.kind == ContentPart::Kind::image)
        special(special::kImage);
      else
        text(strip_parts ? python_strip(part.text) : std::string_view(part.text));
    }
  }
  // The system message's text, when the conversation begins with one.
  std::optional<std::string> system_text() const {
    const ChatMessage& first = request_.messages[0];
    if (first.role != "system") return std::nullopt;
    if (has_image(first)) refuse(0, "content", "the chat template cannot show an image in the system message");
    std::string joined;
    if (const std::string* whole = std::get_if<std::string>(&first.content)) joined = *whole;
    if (const auto* parts = std::get_if<std::vector<ContentPart>>(&first.content))
      for (const ContentPart& part : *parts) joined += part.text;
    return std::string(python_strip(joined));
  }
  std::vector<TextSegment> finish() {
    if (request_.add_generation_prompt) header("assistant");
    return std::move(segments_);
  }

  const ChatRequest& request_;

 private:
  std::vector<TextSegment> segments_;
};

class OfficialRenderer : Renderer {
 public:
  using Renderer::Renderer;

  std::vector<TextSegment> render() {
    special(special::kBeginOfText);
    const Json::Array* tools = request_.tools && !request_.tools->empty() ? &*request_.tools : nullptr;
    if (request_.custom_tools && !request_.custom_tools->empty()) tools = &*request_.custom_tools;
    std::optional<std::string> given = system_text();
    if (tools && given && given->empty())
      fail(ErrorKind::usage,
           "tools: the official chat template drops tools beside an empty system message; give the "
           "system message a text or leave it out");
    if (tools || (given && !given->empty())) {
      header("system");
      text(given ? *given : template_text::kDefaultToolSystem);
      if (tools && given) text(template_text::kToolsAfterSystem);
      if (tools) text(dump_json(Json(*tools), JsonStyle::python, kToolIndent));
      special(special::kEot);
    }
    for (size_t i = given ? 1 : 0; i < request_.messages.size(); ++i) message(i);
    return finish();
  }

 private:
  void message(size_t i) {
    const ChatMessage& m = request_.messages[i];
    if (is_tool_result(m)) {
      header("ipython");
      tool_result(i);
    } else {
      header(m.role);
      content(m, m.tool_calls.empty());
      if (!m.tool_calls.empty()) calls(m.tool_calls);
    }
    special(special::kEot);
  }

  // Arguments are written between double quotes whatever they hold, as the template does.
  void calls(const std::vector<ToolCall>& tool_calls) {
    text("[");
    for (size_t i = 0; i < tool_calls.size(); ++i) {
      if (i) text(", ");
      text(tool_calls[i].name);
      text("(");
      const Json::Object& arguments = tool_calls[i].arguments.as_object();
      for (size_t j = 0; j < arguments.size(); ++j)
        text(cat(j ? ", " : "", arguments[j].first, "=\"", python_str(arguments[j].second), "\""));
      text(")");
    }
    text("]");
  }

  void tool_result(size_t i) {
    const Json result = to_json(request_.messages[i].content);
    if (result.is_string()) return text(json_quote(result.as_string()));
    if (!result.is_array())
      refuse(i, "content", "the official chat template takes a tool's result as text, not as JSON ",
             result.kind_name());
    for (const Json& part : result.as_array()) {
      const Json* part_text = part.find("text");
      const Json* type = part.find("type");
      if (!type || *type != Json("text") || !part_text || !part_text->is_string())
        refuse(i, "content", "the official chat template takes a tool's result as text parts only");
      text(json_quote(part_text->as_string()));
    }
  }
};

class LaunchRenderer : Renderer {
 public:
  using Renderer::Renderer;

  std::vector<TextSegment> render() {
    special(special::kBeginOfText);
    tools_ = request_.custom_tools ? &*request_.custom_tools : request_.tools ? &*request_.tools : nullptr;
    std::optional<std::string> given = system_text();
    size_t next = 0;
    if (given) {
      ++next;
      header("system");
      if (tools_) text(template_text::kLaunchEnvironment);
      if (tools_ && !request_.tools_in_user_message) {
        text(template_text::kLaunchToolsInSystem);
        tool_list();
      }
      text(*given);
      special(special::kEot);
    } else if (tools_ && !request_.tools_in_user_message) {
      fail(ErrorKind::usage,
           "tools_in_user_message: false needs a system message: the launch chat template drops the tools "
           "without one");
    }
    if (tools_ && request_.tools_in_user_message) first_user_message(next++);
    for (; next < request_.messages.size(); ++next) message(next);
    return finish();
  }

 private:
  void tool_list() {
    for (const Json& tool : *tools_) {
      text(dump_json(tool, JsonStyle::python, kToolIndent));
      text("\n\n");
    }
  }

  void first_user_message(size_t i) {
    if (i >= request_.messages.size() || request_.messages[i].role != "user")
      refuse(i, "role", "the launch chat template puts the tools into the first message, which must be the user's");
    const ChatMessage& m = request_.messages[i];
    if (has_image(m))
      refuse(i, "content",
             "the launch chat template cannot show an image in the message that carries the tools; set "
             "tools_in_user_message to false and give a system message");
    header("user");
    text(template_text::kLaunchToolsInUser);
    tool_list();
    text(python_strip(python_str(to_json(m.content))));  // a list of parts appears as Python prints it
    special(special::kEot);
  }

  void message(size_t i) {
    const ChatMessage& m = request_.messages[i];
    if (is_tool_result(m)) {
      header("ipython");
      Json result = to_json(m.content);
      bool as_json = result.is_string() || result.is_array() || result.is_object();
      text(as_json ? dump_json(result) : python_str(result));
    } else if (!m.tool_calls.empty()) {
      header("assistant");
      special(special::kPythonStart);
      content(m, false);
      special(special::kPythonEnd);
      for (const ToolCall& call : m.tool_calls)
        text(cat("{\"name\": \"", call.name, "\", \"parameters\": ", dump_json(call.arguments), "}"));
    } else {
      header(m.role);
      content(m, false);
    }
    special(special::kEot);
  }

  const Json::Array* tools_ = nullptr;
};

}  // namespace

std::vector<TextSegment> render_chat(ChatTemplate which, const ChatRequest& request) {
  return which == ChatTemplate::official ? OfficialRenderer(request).render() : LaunchRenderer(request).render();
}

std::vector<const ContentPart*> image_parts(const ChatRequest& request) {
  std::vector<const ContentPart*> images;
  for (const ChatMessage& message : request.messages)
    if (const auto* parts = std::get_if<std::vector<ContentPart>>(&message.content))
      for (const ContentPart& part : *parts)
        if (part.kind == ContentPart::Kind::image) images.push_back(&part);
  return images;
}

}  // namespace l4
