#include "tools/run/grammar_flags.h"

#include "tools/common/grammar_vocab.h"
#include "tools/common/model_flags.h"

namespace l4::run {

void add_grammar_flags(tools::Flags& flags, GrammarFlags& g) {
  flags.group("What an answer may be (one of these)");
  flags.text("--grammar", "TEXT", "a grammar in llama.cpp's notation (GBNF)", &g.grammar);
  flags.path("--grammar-file", "FILE", "the same from a file", &g.grammar_file);
  flags.text("-j,--json-schema", "SCHEMA", "JSON that this schema describes; {}: any object", &g.schema);
  flags.path("-jf,--json-schema-file", "FILE", "the same from a file", &g.schema_file);
}

std::shared_ptr<const Grammar> compile_grammar(const GrammarFlags& flags, const Frontend& frontend) {
  if (!flags.any()) return nullptr;
  if (flags.grammar.has_value() + flags.schema.has_value() + !flags.grammar_file.empty() + !flags.schema_file.empty() >
      1)
    fail(ErrorKind::usage, "--grammar, --grammar-file, --json-schema and --json-schema-file: one of them");
  const bool is_schema = flags.schema || !flags.schema_file.empty();
  const fs::path& file = is_schema ? flags.schema_file : flags.grammar_file;
  const std::string source = file.empty() ? (is_schema ? "--json-schema" : "--grammar") : file.string();
  const std::string text = file.empty() ? (is_schema ? *flags.schema : *flags.grammar) : tools::read_text(file);
  const GrammarVocabPtr vocab = tools::grammar_vocab(frontend);
  if (!vocab) fail(ErrorKind::usage, source, ": the checkpoint has no tokenizer");
  const Json schema = is_schema ? parse_json(text, source) : Json();
  try {
    if (!is_schema) return compile_gbnf(vocab, text);
    return schema == Json(Json::Object{}) ? compile_json_object(vocab) : compile_json_schema(vocab, schema);
  } catch (const Error& error) {
    fail(error.kind(), source, ": ", error.message());
  }
}

}  // namespace l4::run
