// vLLM's /tokenize and /detokenize.
#pragma once

#include "tools/serve/api/request_fields.h"

namespace l4::serve {

// {"prompt", "add_special_tokens"} or {"messages", ...} -> {"count", "max_model_len", "tokens", "token_strs"}.
Json tokenize(const Json& body, const ReadContext& context);
// {"tokens"} -> {"prompt"}.
Json detokenize(const Json& body, const ReadContext& context);

}  // namespace l4::serve
