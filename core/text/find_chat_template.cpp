// Which of the two chat templates a checkpoint carries. A template is a program; these two are known by their text.
#include "base/error.h"
#include "base/strings.h"
#include "text/chat_template.h"

namespace l4 {

namespace {

// FNV-1a, 64 bits.
uint64_t hash_of(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325;
  for (unsigned char c : text) hash = (hash ^ c) * 0x100000001B3;
  return hash;
}

struct Known {
  ChatTemplate which;
  std::string_view name;
  size_t n_bytes;  // without white space at the end
  uint64_t hash;
};
constexpr Known kKnown[] = {
    {ChatTemplate::official, "official", 7346, 0x81111FCCA2088992},
    {ChatTemplate::launch, "launch", 4944, 0xC677DC775AB8CD10},
};

constexpr uint64_t kMaxTemplateBytes = 1 << 20;
constexpr uint64_t kMaxConfigBytes = 64 << 20;

// "chat_template" of a config file: a string, or a list of {"name", "template"} of which "default" counts.
std::optional<std::string> template_in(const fs::path& file) {
  const Json config = parse_json(read_file(file, kMaxConfigBytes), file.string());
  const Json* value = config.find("chat_template");
  if (!value || value->is_null()) return std::nullopt;
  if (value->is_string()) return value->as_string();
  if (!value->is_array())
    fail_input(file.string(), ": chat_template: expected a string or a list, found ", value->kind_name());
  for (const Json& entry : value->as_array()) {
    const Json* name = entry.find("name");
    const Json* text = entry.find("template");
    if (name && *name == Json("default") && text && text->is_string()) return text->as_string();
  }
  return std::nullopt;
}

}  // namespace

std::optional<ChatTemplate> recognise_chat_template(std::string_view jinja) {
  std::string unix_lines;
  for (size_t i = 0; i < jinja.size(); ++i)
    if (jinja[i] != '\r' || i + 1 >= jinja.size() || jinja[i + 1] != '\n') unix_lines.push_back(jinja[i]);
  std::string_view text = unix_lines;
  text = text.substr(0, text.find_last_not_of(" \t\r\n\v\f") + 1);
  for (const Known& known : kKnown)
    if (text.size() == known.n_bytes && hash_of(text) == known.hash) return known.which;
  return std::nullopt;
}

std::optional<ChatTemplate> find_chat_template(const fs::path& model_dir) {
  for (const char* name : {"chat_template.jinja", "chat_template.json", "tokenizer_config.json"}) {
    fs::path file = model_dir / name;
    std::error_code ec;
    if (!fs::is_regular_file(file, ec)) continue;
    std::optional<std::string> text =
        file.extension() == ".jinja" ? std::optional(read_file(file, kMaxTemplateBytes)) : template_in(file);
    if (!text || trim(*text).empty()) continue;
    if (std::optional<ChatTemplate> known = recognise_chat_template(*text)) return known;
    fail(ErrorKind::unsupported, file.string(),
         ": this chat template is neither of Llama 4's two; choose one with --chat-template official|launch");
  }
  return std::nullopt;
}

ChatTemplate parse_chat_template_name(std::string_view name) {
  for (const Known& known : kKnown)
    if (name == known.name) return known.which;
  fail(ErrorKind::usage, "expected official or launch, found ", shown(name));
}

std::string_view chat_template_name(ChatTemplate which) {
  return which == ChatTemplate::official ? kKnown[0].name : kKnown[1].name;
}

}  // namespace l4
