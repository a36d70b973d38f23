// A conversation: its messages, what waits for the next one, and going back. No terminal, no model.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "text/chat_template.h"

namespace l4::run {

class ChatSession {
 public:
  // Replaces the system message; empty text removes it.
  void set_system(std::string text);
  std::string system() const;  // empty: none

  // Wait for the next user message: pictures come before its text, texts read from files as well.
  std::string attach_image(const std::string& path);  // gives its image_url
  void attach_text(std::string text);
  bool has_attachments() const { return !images_.empty() || !texts_.empty(); }
  size_t n_attached_images() const { return images_.size(); }
  void drop_attachments();

  void add_user(std::string text);  // takes what was attached
  void add_assistant(std::string text);

  // The last answer goes, so that the last user message can be answered anew. False when there is no user message.
  bool drop_answer();
  // The last user message and all that came after it go. False when there is none.
  bool undo();
  // All but the system message, and what was attached.
  void clear();

  int64_t n_turns() const;  // user messages
  const std::vector<ChatMessage>& messages() const { return messages_; }
  ChatRequest request() const;

  // {"messages": [...]} in OpenAI's shape; pictures as file:// addresses of the paths given to attach_image().
  Json to_json() const;
  // Error{usage} naming the field. What was attached is dropped.
  void load_json(const Json& json);

 private:
  std::vector<ChatMessage> messages_;  // the system message, if any, is the first
  std::vector<std::string> images_, texts_;
};

// A picture's path in a ContentPart::image_url: "file:///abs/cat.png" or a plain path. Error{unsupported} for any other
// kind of address.
std::string image_path(const std::string& image_url);

}  // namespace l4::run
