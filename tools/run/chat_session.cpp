#include "tools/run/chat_session.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/file.h"

namespace l4::run {

namespace {

bool is_system(const ChatMessage& message) {
  return message.role == "system";
}

std::string text_of(const ChatMessage& message) {
  if (auto* text = std::get_if<std::string>(&message.content)) return *text;
  std::string out;
  if (auto* parts = std::get_if<std::vector<ContentPart>>(&message.content))
    for (const ContentPart& part : *parts) out += part.text;
  return out;
}

Json call_json(const ToolCall& call) {
  Json function, out;
  function.set("name", call.name);
  function.set("arguments", dump_json(call.arguments));
  out.set("type", "function");
  out.set("function", std::move(function));
  return out;
}

Json content_json(const ChatMessage::Content& content) {
  if (auto* text = std::get_if<std::string>(&content)) return *text;
  if (auto* value = std::get_if<Json>(&content)) return *value;
  Json list(Json::Array{});
  for (const ContentPart& part : std::get<std::vector<ContentPart>>(content)) {
    Json item, url;
    if (part.kind == ContentPart::Kind::image) {
      url.set("url", part.image_url);
      item.set("type", "image_url");
      item.set("image_url", std::move(url));
    } else {
      item.set("type", "text");
      item.set("text", part.text);
    }
    list.push_back(std::move(item));
  }
  return list;
}

}  // namespace

void ChatSession::set_system(std::string text) {
  if (!messages_.empty() && is_system(messages_.front())) messages_.erase(messages_.begin());
  if (text.empty()) return;
  ChatMessage message;
  message.role = "system";
  message.content = std::move(text);
  messages_.insert(messages_.begin(), std::move(message));
}

std::string ChatSession::system() const {
  return !messages_.empty() && is_system(messages_.front()) ? text_of(messages_.front()) : "";
}

std::string ChatSession::attach_image(const std::string& path) {
  images_.push_back(cat("file://", fs::absolute(path).lexically_normal().string()));
  return images_.back();
}

void ChatSession::attach_text(std::string text) {
  texts_.push_back(std::move(text));
}

void ChatSession::drop_attachments() {
  images_.clear();
  texts_.clear();
}

void ChatSession::add_user(std::string text) {
  std::string whole;
  for (const std::string& part : texts_) whole += cat(part, part.ends_with('\n') ? "\n" : "\n\n");
  whole += text;
  ChatMessage message;
  message.role = "user";
  if (images_.empty()) {
    message.content = std::move(whole);
  } else {
    std::vector<ContentPart> parts;
    for (std::string& image : images_) parts.push_back({ContentPart::Kind::image, "", std::move(image)});
    parts.push_back({ContentPart::Kind::text, std::move(whole), ""});
    message.content = std::move(parts);
  }
  messages_.push_back(std::move(message));
  drop_attachments();
}

void ChatSession::add_assistant(std::string text) {
  ChatMessage message;
  message.role = "assistant";
  message.content = std::move(text);
  messages_.push_back(std::move(message));
}

bool ChatSession::drop_answer() {
  if (n_turns() == 0) return false;
  while (messages_.back().role != "user") messages_.pop_back();
  return true;
}

bool ChatSession::undo() {
  if (!drop_answer()) return false;
  messages_.pop_back();
  return true;
}

void ChatSession::clear() {
  std::erase_if(messages_, [this](const ChatMessage& m) { return &m != messages_.data() || !is_system(m); });
  drop_attachments();
}

int64_t ChatSession::n_turns() const {
  return std::count_if(messages_.begin(), messages_.end(), [](const ChatMessage& m) { return m.role == "user"; });
}

ChatRequest ChatSession::request() const {
  ChatRequest out;
  out.messages = messages_;
  return out;
}

Json ChatSession::to_json() const {
  Json list(Json::Array{});
  for (const ChatMessage& message : messages_) {
    Json item;
    item.set("role", message.role);
    item.set("content", content_json(message.content));
    if (!message.tool_calls.empty()) {
      Json calls(Json::Array{});
      for (const ToolCall& call : message.tool_calls) calls.push_back(call_json(call));
      item.set("tool_calls", std::move(calls));
    }
    list.push_back(std::move(item));
  }
  Json out;
  out.set("messages", std::move(list));
  return out;
}

void ChatSession::load_json(const Json& json) {
  messages_ = chat_request_from_json(json).messages;
  drop_attachments();
}

std::string image_path(const std::string& image_url) {
  if (image_url.starts_with("file://")) return image_url.substr(7);
  if (image_url.empty() || image_url.starts_with("data:") || image_url.find("://") != std::string::npos)
    fail(ErrorKind::unsupported, "pictures must be files on this machine, found ", shown(image_url));
  return image_url;
}

}  // namespace l4::run
