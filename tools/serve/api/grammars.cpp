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

namespace {
// Of what the grammar depends on.
std::string key_of(const AnswerForm& form) {
  Json choices(Json::Array{});
  for (const std::string& choice : form.choices) choices.push_back(choice);
  return cat(int(form.kind), " ",
             form.kind == AnswerForm::Kind::json_schema ? dump_json(form.schema, JsonStyle::compact)
             : form.kind == AnswerForm::Kind::choice    ? dump_json(choices, JsonStyle::compact)
                                                        : form.text);
}
}  // namespace

GrammarPtr Grammars::form(const std::optional<AskedForm>& asked) {
  if (!asked) return nullptr;
  return compiled("form " + key_of(asked->form), asked->field, [&] { return compile_form(vocab_, asked->form); });
}

GrammarPtr Grammars::tool_calls(const Json& tools, const std::string& name, bool parallel) {
  return compiled(cat("tools ", parallel, " ", name, " ", dump_json(tools, JsonStyle::compact)), "tools",
                  [&] { return compile_tool_calls(vocab_, tools, name, parallel); });
}

GrammarPtr Grammars::form_or_calls(const AskedForm& asked, const Json& tools, bool parallel) {
  (void)form(asked);  // what is wrong with it is its field's fault, the rest the tools'
  return compiled(cat("either ", parallel, " ", dump_json(tools, JsonStyle::compact), " ", key_of(asked.form)), "tools",
                  [&] { return compile_form_or_tool_calls(vocab_, asked.form, tools, parallel); });
}

// ---- reading --------------------------------------------------------------------------------------------------------

std::optional<AskedForm> read_format(const Fields& format) {
  const std::string type = format.need_text("type");
  if (type == "text") return std::nullopt;
  if (type == "json_object") return AskedForm{AnswerForm::any_object(), format.path("type")};
  if (type != "json_schema") format.bad_value("type", "expected text, json_object or json_schema, found ", shown(type));
  const std::optional<Fields> inner = format.object("json_schema");
  const Fields& holder = inner ? *inner : format;
  if (!inner && !format.has("schema")) format.missing("json_schema");
  const Json* schema = holder.find("schema");
  if (!schema) holder.missing("schema");
  if (!schema->is_object() && !schema->is_bool()) holder.wrong("schema", "a JSON schema");
  return AskedForm{{.schema = *schema}, holder.path("schema")};
}

namespace {

// `kind`: json, regex, choice, grammar or json_object.
std::optional<AskedForm> read_member(const Fields& from, const std::string& key, const std::string& kind) {
  const Json* value = from.find(key);
  const std::string field = from.path(key);
  if (kind == "json") {
    if (value->is_object()) return AskedForm{{.schema = *value}, field};
    const std::string text = *from.text(key);
    Json schema = blaming(field, [&] { return parse_json(text, field, {.max_depth = 64, .max_values = 100'000}); });
    return AskedForm{{.schema = std::move(schema)}, field};
  }
  if (kind == "json_object") {
    if (!from.flag_or(key, false)) return std::nullopt;
    return AskedForm{AnswerForm::any_object(), field};
  }
  if (kind == "choice") {
    std::vector<std::string> choices;
    for (const Json& choice : *from.list(key)) {
      if (!choice.is_string()) from.wrong(key, "a list of strings");
      choices.push_back(choice.as_string());
    }
    if (choices.empty()) from.bad_value(key, "expected at least one choice");
    return AskedForm{{.kind = AnswerForm::Kind::choice, .choices = std::move(choices)}, field};
  }
  const auto form = kind == "regex" ? AnswerForm::Kind::regex : AnswerForm::Kind::gbnf;
  return AskedForm{{.kind = form, .text = *from.text(key)}, field};
}

}  // namespace

std::optional<AskedForm> read_form(const Fields& body) {
  std::optional<AskedForm> form;
  std::string first;
  const auto take = [&](const std::string& name, std::optional<AskedForm> found) {
    if (!found) return;
    if (form) refuse(name, "invalid_value", "the answer's form is given by ", first, " already: one of them");
    form = std::move(found);
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
  return form;
}

}  // namespace l4::serve
