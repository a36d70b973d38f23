// The members that requests of all APIs share: how tokens are chosen, when an answer ends, tools, and the prompt of a
// conversation.
#pragma once

#include <string>
#include <vector>

#include "tools/common/media/media.h"
#include "tools/common/sampling_flags.h"
#include "tools/serve/api/answer.h"
#include "tools/serve/api/grammars.h"

namespace l4::serve {

struct ApiSettings {
  std::vector<std::string> model_names = {"model"};  // the first is the one that answers name
  tools::SamplingFlags sampling = {};                // what requests do not say
  int max_logprobs = 20;
  int64_t max_answers = 128;  // n, and prompts times n
};

// What reading a request takes. One for all requests; its parts may be used by several threads.
struct ReadContext {
  const AnswerSource& source;
  Grammars& grammars;
  tools::MediaLoader* media = nullptr;  // none: pictures are refused
  const ApiSettings& settings;

  const Frontend& frontend() const { return source.frontend(); }
};

// "model": absent, or one of ours; 404 model_not_found otherwise. Gives the name to answer with.
std::string read_model(const Fields& body, const ReadContext& context);

// temperature, top_p, top_k, min_p, penalties, seed, logit_bias, stop_token_ids, ignore_eos, min_tokens,
// skip_special_tokens, include_stop_str_in_output, priority, cache_salt; refuses what vLLM has and we have not. The
// defaults are the server's.
void read_sampling(const Fields& body, const ReadContext& context, Ask& ask);
// A string or a list of strings.
void read_stop(const Fields& body, std::string_view key, GenerationOptions& options);
// "n", "stream", "stream_options".
void read_choices(const Fields& body, const ReadContext& context, Ask& ask);

// Tools in OpenAI's shape, checked; `field` names the list. Fills in Ask::tool_names.
struct ToolChoice {
  enum class Kind { none, automatic, required, named };
  Kind kind = Kind::automatic;
  std::string name;  // kind named
};
void check_tools(const Json::Array& tools, std::string_view field);
// Fills in ask.options.grammar: the form that was asked for; beside tools that may be called, that form or calls; a call
// alone where one is forced, which leaves nothing to have the form. With Kind::none the prompt goes without tools.
void apply_tools(const Fields& body, const ToolChoice& choice, bool parallel, const std::optional<AskedForm>& form,
                 const ReadContext& context, ChatRequest& chat, Ask& ask);
// OpenAI's tool_choice: "none", "auto", "required" or {"type": "function", "function": {"name"}} (Responses: "name").
ToolChoice read_tool_choice(const Fields& body);

// The prompt of a conversation, its pictures fetched and prepared (which may take a while). continue_final: the last
// message, an assistant's, goes on in the answer.
Prompt chat_prompt(const ReadContext& context, ChatRequest chat, bool continue_final);

// Where no room is for prompt and max_tokens: context_length_exceeded. `field` names max_tokens.
void check_length(const Ask& ask, const ReadContext& context, std::string_view field);

}  // namespace l4::serve
