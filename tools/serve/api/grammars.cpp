#include "tools/serve/api/grammars.h"

#include <algorithm>

#include "tools/common/grammar_vocab.h"

namespace l4::serve {

namespace {

constexpr size_t kKept = 32;                   // a grammar's masks may take some megabytes
constexpr size_t kMaxSourceBytes = 256 << 10;  // of a schema, regex or grammar as text

}  // namespace

Grammars::Grammars(const Frontend& frontend) : vocab_(tools::grammar_vocab(frontend)) {}

GrammarPtr Grammars::compiled(std::string key, std::string_view field, const std::function<GrammarPtr()>& compile) {
  if (!vocab_) refuse(field, "unsupported_parameter", "not supported: the checkpoint has no tokenizer");
  if (key.size() > kMaxSourceBytes) refuse(field, "invalid_value", "longer than ", human_bytes(kMaxSourceBytes));
  const auto find = [&] {
    return std::find_if(kept_.begin(), kept_.end(), [&](const auto& entry) { return entry.first == key; });
  };
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = find(); found != kept_.end()) {
      kept_.splice(kept_.begin(), kept_, found);
      return found->second;
    }
  }
  GrammarPtr grammar = blaming(field, compile);
  const std::lock_guard lock(mutex_);
  if (find() == kept_.end()) kept_.emplace_front(std::move(key), grammar);
  if (kept_.size() > kKept) kept_.pop_back();
  return grammar;
}

GrammarPtr Grammars::json_schema(const Json& schema, std::string_view field) {
  return compiled("schema " + dump_json(schema, JsonStyle::compact), field,
                  [&] { return compile_json_schema(vocab_, schema); });
}

GrammarPtr Grammars::tool_calls(const Json& tools, const std::string& name, bool parallel) {
  return compiled(cat("tools ", parallel, " ", name, " ", dump_json(tools, JsonStyle::compact)), "tools",
                  [&] { return compile_tool_calls(vocab_, tools, name, parallel); });
}

GrammarPtr Grammars::read_format(const Fields& format) {
  const std::string type = format.need_text("type");
  if (type == "text") return nullptr;
  if (type == "json_object")
    return compiled("object", format.path("type"), [&] { return compile_json_object(vocab_); });
  if (type != "json_schema") format.bad_value("type", "expected text, json_object or json_schema, found ", shown(type));
  const std::optional<Fields> inner = format.object("json_schema");
  const Fields& holder = inner ? *inner : format;
  if (!inner && !format.has("schema")) format.missing("json_schema");
  const Json* schema = holder.find("schema");
  if (!schema) holder.missing("schema");
  if (!schema->is_object() && !schema->is_bool()) holder.wrong("schema", "a JSON schema");
  return json_schema(*schema, holder.path("schema"));
}

// `kind`: json, regex, choice, grammar or json_object.
GrammarPtr Grammars::read_member(const Fields& from, const std::string& key, const std::string& kind) {
  const Json* value = from.find(key);
  const std::string field = from.path(key);
  if (kind == "json") {
    if (value->is_object()) return json_schema(*value, field);
    const std::string text = *from.text(key);
    return json_schema(
        blaming(field, [&] { return parse_json(text, field, {.max_depth = 64, .max_values = 100'000}); }), field);
  }
  if (kind == "json_object")
    return from.flag_or(key, false) ? compiled("object", field, [&] { return compile_json_object(vocab_); }) : nullptr;
  if (kind == "choice") {
    std::vector<std::string> choices;
    for (const Json& choice : *from.list(key)) {
      if (!choice.is_string()) from.wrong(key, "a list of strings");
      choices.push_back(choice.as_string());
    }
    if (choices.empty()) from.bad_value(key, "expected at least one choice");
    return compiled("choice " + dump_json(*value, JsonStyle::compact), field,
                    [&] { return compile_choice(vocab_, choices); });
  }
  const std::string text = *from.text(key);
  return compiled(cat(kind, " ", text), field,
                  [&] { return kind == "regex" ? compile_regex(vocab_, text) : compile_gbnf(vocab_, text); });
}

GrammarPtr Grammars::read(const Fields& body) {
  GrammarPtr grammar;
  std::string first;
  const auto take = [&](const std::string& name, GrammarPtr found) {
    if (!found) return;
    if (grammar) refuse(name, "invalid_value", "the answer's form is given by ", first, " already: one of them");
    grammar = std::move(found);
    first = name;
  };
  if (const std::optional<Fields> format = body.object("response_format"))
    take("response_format", read_format(*format));
  for (const char* kind : {"json", "regex", "choice", "grammar"})
    if (const std::string key = cat("guided_", kind); body.has(key)) take(key, read_member(body, key, kind));
  if (const std::optional<Fields> outputs = body.object("structured_outputs")) {
    outputs->not_offered("structural_tag", "use json, regex, choice or grammar");
    for (const char* kind : {"json", "regex", "choice", "grammar", "json_object"})
      if (outputs->has(kind)) take(outputs->path(kind), read_member(*outputs, kind, kind));
  }
  return grammar;
}

}  // namespace l4::serve
