// A checkpoint's vocabulary as grammars need it.
#pragma once

#include "grammar/grammar.h"
#include "l4.h"

namespace l4::tools {

// Takes a second for a large vocabulary: made once. Nothing without a tokenizer.
GrammarVocabPtr grammar_vocab(const Frontend& frontend);

}  // namespace l4::tools
