// The flags that say what an answer may be, llama.cpp's names.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "l4.h"
#include "tools/common/flags.h"

namespace l4::run {

struct GrammarFlags {
  std::optional<std::string> grammar, schema;  // as text
  fs::path grammar_file, schema_file;

  bool any() const { return grammar || schema || !grammar_file.empty() || !schema_file.empty(); }
};

void add_grammar_flags(tools::Flags& flags, GrammarFlags& grammar);

// None where no flag was given. Error{usage | input} naming the flag or the file, also for two at once.
std::shared_ptr<const Grammar> compile_grammar(const GrammarFlags& flags, const Frontend& frontend);

}  // namespace l4::run
