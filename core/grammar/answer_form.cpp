// From what is asked for to a compiled grammar, alone or beside tools.
#include "base/error.h"
#include "grammar/compiled.h"
#include "grammar/limits.h"

namespace l4 {

ExprId add_choice(GrammarRules& rules, std::span<const std::string> choices) {
  if (choices.empty()) fail(ErrorKind::usage, "choice: the list is empty");
  size_t n_bytes = 0;
  for (const std::string& choice : choices) {
    n_bytes += choice.size();
    if (!is_valid_utf8(choice)) fail(ErrorKind::usage, "choice: not UTF-8");
  }
  if (n_bytes > grammar_limits::kMaxTextBytes) fail(ErrorKind::usage, "choice: longer than 1 MiB in all");
  return rules.one_of_texts({choices.begin(), choices.end()});
}

namespace {

ExprId add_form(GrammarRules& rules, const AnswerForm& form) {
  switch (form.kind) {
    case AnswerForm::Kind::json_schema:
      return add_json_schema(rules, form.schema);
    case AnswerForm::Kind::regex:
      return add_regex(rules, form.text);
    case AnswerForm::Kind::choice:
      return add_choice(rules, form.choices);
    case AnswerForm::Kind::gbnf:
      return add_gbnf(rules, form.text);
  }
  fail(ErrorKind::internal, "no such form");
}

// `add` gives the expression of the whole answer.
template <class Add>
GrammarPtr compile(const GrammarVocabPtr& vocab, const char* name, const Add& add) {
  GrammarRules rules;
  const RuleId root = rules.new_rule(name);
  rules.define(root, add(rules));
  return make_grammar(vocab, rules, root);
}

}  // namespace

GrammarPtr compile_form(const GrammarVocabPtr& vocab, const AnswerForm& form) {
  const char* name = form.kind == AnswerForm::Kind::json_schema ? "json_schema#"
                     : form.kind == AnswerForm::Kind::regex     ? "regex"
                     : form.kind == AnswerForm::Kind::choice    ? "choice"
                                                                : "grammar";
  return compile(vocab, name, [&](GrammarRules& rules) { return add_form(rules, form); });
}

GrammarPtr compile_tool_calls(const GrammarVocabPtr& vocab, const Json& tools, std::string_view name, bool parallel,
                              ToolCallForm form) {
  return compile(vocab, "tool calls",
                 [&](GrammarRules& rules) { return add_tool_calls(rules, tools, name, parallel, form); });
}

GrammarPtr compile_form_or_tool_calls(const GrammarVocabPtr& vocab, const AnswerForm& form, const Json& tools,
                                      bool parallel) {
  return compile(vocab, "answer", [&](GrammarRules& rules) {
    const ExprId calls = add_tool_calls(rules, tools, "", parallel, ToolCallForm::any);
    return rules.any_of({add_form(rules, form), calls});
  });
}

GrammarPtr compile_json_object(const GrammarVocabPtr& vocab) {
  return compile_form(vocab, AnswerForm::any_object());
}
GrammarPtr compile_json_schema(const GrammarVocabPtr& vocab, const Json& schema) {
  return compile_form(vocab, {.kind = AnswerForm::Kind::json_schema, .schema = schema});
}
GrammarPtr compile_regex(const GrammarVocabPtr& vocab, std::string_view pattern) {
  return compile_form(vocab, {.kind = AnswerForm::Kind::regex, .text = std::string(pattern)});
}
GrammarPtr compile_choice(const GrammarVocabPtr& vocab, std::span<const std::string> choices) {
  return compile_form(vocab, {.kind = AnswerForm::Kind::choice, .choices = {choices.begin(), choices.end()}});
}
GrammarPtr compile_gbnf(const GrammarVocabPtr& vocab, std::string_view text) {
  return compile_form(vocab, {.kind = AnswerForm::Kind::gbnf, .text = std::string(text)});
}

}  // namespace l4
