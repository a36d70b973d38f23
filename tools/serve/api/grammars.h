// What an answer may say, as clients ask for it -> compiled grammars, of which the last ones are kept: an application
// sends the same schema with every request.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "grammar/grammar.h"
#include "l4.h"
#include "tools/serve/api/fields.h"

namespace l4::serve {

// A form that was read, and the field that asked for it.
struct AskedForm {
  AnswerForm form;
  std::string field;
};

// response_format, structured_outputs, guided_json, guided_regex, guided_choice, guided_grammar; nothing: anything may
// be said. Refuses two at once.
std::optional<AskedForm> read_form(const Fields& body);
// response_format alone, or Responses' text.format, whose json_schema has its members in the same object.
std::optional<AskedForm> read_format(const Fields& format);

class Grammars {
 public:
  // Reads the vocabulary (a second for a large one). Without a tokenizer every request for a grammar is refused.
  explicit Grammars(const Frontend& frontend);

  GrammarPtr form(const std::optional<AskedForm>& asked);  // none: nothing
  // An answer of that form, or calls to `tools`.
  GrammarPtr form_or_calls(const AskedForm& asked, const Json& tools, bool parallel);
  // A forced call to one of `tools` or, not empty, to the one of that name.
  GrammarPtr tool_calls(const Json& tools, const std::string& name, bool parallel);

 private:
  GrammarPtr compiled(std::string key, std::string_view field, const std::function<GrammarPtr()>& compile);

  GrammarVocabPtr vocab_;
  std::mutex mutex_;
  std::list<std::pair<std::string, GrammarPtr>> kept_;  // the last used first
};

}  // namespace l4::serve
