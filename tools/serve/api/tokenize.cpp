#include "tools/serve/api/tokenize.h"

#include "tools/serve/api/chat.h"

namespace l4::serve {

namespace {
const Tokenizer& need_tokenizer(const ReadContext& context) {
  if (!context.frontend().has_tokenizer()) refuse("", "unsupported_value", "the checkpoint has no tokenizer");
  return context.frontend().tokenizer();
}
}  // namespace

Json tokenize(const Json& json, const ReadContext& context) {
  const Fields body(json);
  (void)read_model(body, context);
  const Tokenizer& tokenizer = need_tokenizer(context);
  std::vector<int32_t> ids;
  if (body.has("messages")) {
    Ask ask;
    read_conversation(body, json, context, ask);
    ids = std::move(ask.prompts[0].ids);
  } else {
    const std::string text = body.need_text("prompt");
    const bool add_special = body.flag_or("add_special_tokens", true);
    ids = blaming("prompt",
                  [&] { return add_special ? context.frontend().prompt_from_text(text).ids : tokenizer.encode(text); });
  }
  Json tokens(Json::Array{}), names(Json::Array{});
  for (int32_t id : ids) tokens.push_back(int64_t(id));
  Json out(Json::Object{{"count", int64_t(ids.size())}, {"max_model_len", context.source.max_context()}});
  out.set("tokens", std::move(tokens));
  if (body.flag_or("return_token_strs", false)) {
    for (int32_t id : ids) names.push_back(tokenizer.name_of(id));
    out.set("token_strs", std::move(names));
  } else {
    out.set("token_strs", Json());
  }
  return out;
}

Json detokenize(const Json& json, const ReadContext& context) {
  const Fields body(json);
  (void)read_model(body, context);
  const Tokenizer& tokenizer = need_tokenizer(context);
  const Json::Array* tokens = body.list("tokens");
  if (!tokens) body.missing("tokens");
  const int64_t vocab = context.frontend().config().text.vocab;
  std::vector<int32_t> ids;
  for (const Json& id : *tokens) {
    if (!id.is_integer() || id.as_integer() < 0 || id.as_integer() >= vocab)
      body.bad_value("tokens", "expected token ids from 0 to ", vocab - 1, ", found ", shown_json(id));
    ids.push_back(int32_t(id.as_integer()));
  }
  return Json(Json::Object{{"prompt", utf8_replace_invalid(tokenizer.decode(ids, false))}});
}

}  // namespace l4::serve
