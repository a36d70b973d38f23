// What an answer may say, as clients ask for it -> compiled grammars, of which the last ones are kept: an application
// sends the same schema with every request.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "grammar/grammar.h"
#include "l4.h"
#include "tools/serve/api/fields.h"

namespace l4::serve {

class Grammars {
 public:
  // Reads the vocabulary (a second for a large one). Without a tokenizer every request for a grammar is refused.
  explicit Grammars(const Frontend& frontend);

  // response_format, structured_outputs, guided_json, guided_regex, guided_choice, guided_grammar; nothing: anything
  // may be said. Refuses two at once.
  GrammarPtr read(const Fields& body);
  // response_format alone, or Responses' text.format, whose json_schema has its members in the same object.
  GrammarPtr read_format(const Fields& format);
  // A forced call to one of `tools` or, not empty, to the one of that name.
  GrammarPtr tool_calls(const Json& tools, const std::string& name, bool parallel);

 private:
  GrammarPtr compiled(std::string key, std::string_view field, const std::function<GrammarPtr()>& compile);
  GrammarPtr json_schema(const Json& schema, std::string_view field);
  GrammarPtr read_member(const Fields& from, const std::string& key, const std::string& kind);

  GrammarVocabPtr vocab_;
  std::mutex mutex_;
  std::list<std::pair<std::string, GrammarPtr>> kept_;  // the last used first
};

}  // namespace l4::serve
