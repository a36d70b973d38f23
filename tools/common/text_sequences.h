// Text as sequences of tokens: what calibrates a conversion, what two models are compared on.
#pragma once

#include <string>
#include <vector>

#include "l4.h"

namespace l4::tools {

using Sequences = std::vector<std::vector<int32_t>>;  // of token ids, none empty

// A file of plain text is cut into sequences of `length` tokens, each behind the beginning-of-text token. Of JSON lines
// (FILE.jsonl) each is a sequence, cut off at `length`: {"text": "..."} or a conversation, {"messages": [...]}, by the
// chat template. Names of special tokens in either become those tokens. Stops behind `most` tokens. Error{io | input}
// naming file and line, also where there is no text.
Sequences read_sequences(const fs::path& file, const Frontend& frontend, int64_t length, int64_t most);

int64_t count_tokens(const Sequences& sequences);
// The first sequences with `most` tokens together, the last of them cut off there; the others stay in `sequences`.
Sequences take_tokens(Sequences& sequences, int64_t most);

// Some hundred words of English, for looking at a model without a text at hand.
extern const char* const kBuiltInText;

}  // namespace l4::tools
