// Constrained generation: what a request may say, as a mask over the vocabulary at every step.
//
//   JSON schema, regex, GBNF, ...  ->  rules over bytes (rules.h)  ->  a pushdown automaton over bytes (automaton.h)
//
// A Grammar is that automaton with a cache of token masks. It is compiled once, never changes as far as anyone can see,
// and is shared by requests and threads; a GrammarMatcher is the place of one reply in it. Tokens are byte strings, so
// any split of a text into tokens is followed, also in the middle of a UTF-8 character. Special tokens are never
// allowed, except the end tokens where the grammar may end.
//
// Everything a user can get wrong is Error{usage} in one line that names the place (a JSON pointer, a rule, an offset),
// sizes and times are bounded whatever the input: see limits.h.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json.h"

namespace l4 {

class Grammar;
struct GrammarVocab;

// Built once per tokenizer. token_bytes[id]: the bytes of the token, empty for ids that are no text (padding).
// is_special[id] != 0: never allowed as text. eos_ids: allowed where the grammar may end.
std::shared_ptr<const GrammarVocab> make_grammar_vocab(std::span<const std::string> token_bytes,
                                                       std::span<const uint8_t> is_special,
                                                       std::span<const int32_t> eos_ids);

using GrammarVocabPtr = std::shared_ptr<const GrammarVocab>;
using GrammarPtr = std::shared_ptr<const Grammar>;

// JSON. White space is at most one space, where JSON allows it between tokens (not before or after the document): a
// model cannot lose itself in it. Numbers have at most 18 digits before and after the point and 2 in the exponent.
GrammarPtr compile_json_object(const GrammarVocabPtr& vocab);
// The keywords and where they deviate from draft 2020-12: json_schema.h.
GrammarPtr compile_json_schema(const GrammarVocabPtr& vocab, const Json& schema);
// The whole reply matches: regex.h has the syntax.
GrammarPtr compile_regex(const GrammarVocabPtr& vocab, std::string_view pattern);
GrammarPtr compile_choice(const GrammarVocabPtr& vocab, std::span<const std::string> choices);
// llama.cpp's notation; the rule to start with is "root".
GrammarPtr compile_gbnf(const GrammarVocabPtr& vocab, std::string_view text);

// How a forced tool call is written. The model was trained on both; text::parse_tool_calls reads both.
enum class ToolCallForm {
  any,       // the model chooses with its first token
  json,      // {"name": "f", "parameters": {"city": "Paris"}}, several one after the other
  pythonic,  // [f(city="Paris"), g()]
};
// tool_choice "required" (name empty) or a named function. `tools`: OpenAI's array of {"type": "function", "function":
// {"name", "parameters"}} (the inner object alone is taken too). A tool without parameters takes no arguments, one whose
// parameters list no properties takes any. parallel: several calls may follow one another.
GrammarPtr compile_tool_calls(const GrammarVocabPtr& vocab, const Json& tools, std::string_view name, bool parallel,
                              ToolCallForm form = ToolCallForm::any);

// The same as a value: what an answer may be.
struct AnswerForm {
  enum class Kind { json_schema, regex, choice, gbnf };
  Kind kind = Kind::json_schema;
  Json schema = {};                       // json_schema
  std::string text = {};                  // regex, gbnf
  std::vector<std::string> choices = {};  // choice

  static AnswerForm any_object() { return {.schema = Json(Json::Object{{"type", "object"}})}; }
};
GrammarPtr compile_form(const GrammarVocabPtr& vocab, const AnswerForm& form);
// tool_choice "auto" beside a form: the answer has it, or is calls as compile_tool_calls() has them, without prose.
GrammarPtr compile_form_or_tool_calls(const GrammarVocabPtr& vocab, const AnswerForm& form, const Json& tools,
                                      bool parallel);

class GrammarMatcher {
 public:
  explicit GrammarMatcher(GrammarPtr grammar);
  GrammarMatcher(const GrammarMatcher&);  // a place of its own, for speculation and n > 1; cheap
  GrammarMatcher& operator=(const GrammarMatcher&) = delete;
  ~GrammarMatcher();

  // [ceil(V / 32)] words; bits of ids that may come next, all others cleared (the span may be longer than the
  // vocabulary). Always true: something is forbidden. Error{usage} for grammars with too many readings at once.
  bool fill_mask(std::span<uint32_t> mask);
  // False, and nothing changes, when the token may not come here.
  bool accept(int32_t id);
  bool accept_bytes(std::string_view bytes);
  bool may_end() const;  // an end token may come now
  bool ended() const;    // nothing but an end token may come
  std::unique_ptr<GrammarMatcher> clone() const { return std::make_unique<GrammarMatcher>(*this); }

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace l4
