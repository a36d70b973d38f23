// A conversation -> the prompt the model was trained on. Llama 4 has two chat templates: the official one of today
// (pythonic tool calls, a default system prompt with tools) and the one published at launch (JSON tool calls), which
// many conversions still carry. Both are rendered by hand-written code that gives the exact text of the Jinja
// originals; a checkpoint whose template is neither is refused rather than guessed.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/file.h"
#include "formats/json.h"
#include "text/segment.h"
#include "text/tool_calls.h"

namespace l4 {

struct ContentPart {
  enum class Kind { text, image };
  Kind kind = Kind::text;
  std::string text;       // kind text
  std::string image_url;  // kind image: the address as given, empty for a bare {"type": "image"}
  bool operator==(const ContentPart&) const = default;
};

struct ChatMessage {
  // A string, a list of parts, or (role tool only) any JSON value a tool returned. The templates treat a string and a
  // list of one text part differently.
  using Content = std::variant<std::string, std::vector<ContentPart>, Json>;

  std::string role;  // system, user, assistant, tool, ipython
  Content content;
  std::vector<ToolCall> tool_calls;  // role assistant only
};

struct ChatRequest {
  std::vector<ChatMessage> messages;
  std::optional<Json::Array> tools;         // an empty list is not the same as none under the launch template
  std::optional<Json::Array> custom_tools;  // takes the place of tools, as in the templates
  bool add_generation_prompt = true;        // end with the assistant's header
  bool tools_in_user_message = true;        // launch template only: tools go into the first user message
};

enum class ChatTemplate { official, launch };

// What to encode, beginning-of-text included. One special segment "<|image|>" stands for each image, in the order of
// image_parts(). Error{usage} naming the field where the template could not say what the request says, which the Jinja
// originals answer by dropping it without a word:
//   * an image in a system message, a tool result, or beside tools in the first user message (launch)
//   * tools with an empty system message (official), or tools_in_user_message = false without a system message (launch)
// Deliberate differences from Jinja: a system message in several parts is joined, not cut after the first; an empty
// tool_calls list counts as none; a tool call without its "function" wrapper is rendered under launch too, where Jinja
// fails.
std::vector<TextSegment> render_chat(ChatTemplate which, const ChatRequest& request);

// The image parts of all messages, in the order in which render_chat places their placeholders.
std::vector<const ContentPart*> image_parts(const ChatRequest& request);

// Reads the body of a chat request in OpenAI's or Hugging Face's shape: an object with "messages" and optionally
// "tools", "custom_tools", "add_generation_prompt", "tools_in_user_message"; other members are left to the caller.
// Content is a string, null (empty), or a list of parts: strings, {"type": "text", "text"}, {"type": "image"} (also
// with "image" or "url"), {"type": "image_url", "image_url": URL or {"url": URL}}. A tool call's arguments are an
// object or a string that holds one. The role "developer" is read as system. Error{usage} "messages[2].content[0].type:
// ...".
ChatRequest chat_request_from_json(const Json& body);

// Which template this text is (the Jinja source from a checkpoint), white space at the end not counting.
std::optional<ChatTemplate> recognise_chat_template(std::string_view jinja);
// The template of a checkpoint directory: chat_template.jinja, else "chat_template" in chat_template.json or
// tokenizer_config.json. Nothing when the checkpoint has none (completion still works). Error{unsupported} for one that
// is neither of the two, naming --chat-template official|launch.
std::optional<ChatTemplate> find_chat_template(const fs::path& model_dir);
// "official" or "launch", the values of --chat-template; Error{usage} otherwise.
ChatTemplate parse_chat_template_name(std::string_view name);
std::string_view chat_template_name(ChatTemplate which);

}  // namespace l4
