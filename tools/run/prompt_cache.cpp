#include "tools/run/prompt_cache.h"

#include <algorithm>

#include "base/log.h"

namespace l4::run {

void add_prompt_cache_flags(tools::Flags& flags, PromptCacheFlags& o) {
  flags.path("--prompt-cache", "FILE", "the prompt's KV: read where the file is there, written after the answer",
             &o.file);
  flags.toggle("--prompt-cache-all", "and the answer's", &o.with_answers);
  flags.toggle("--prompt-cache-ro", "only read it", &o.read_only);
}

void PromptCacheFlags::check() const {
  if (file.empty() && (with_answers || read_only))
    fail(ErrorKind::usage, "--prompt-cache-all and --prompt-cache-ro go with --prompt-cache FILE");
  if (with_answers && read_only)
    fail(ErrorKind::usage, "--prompt-cache-all writes the file, --prompt-cache-ro does not: one of them");
}

PromptCache::PromptCache(const PromptCacheFlags& flags, Engine& engine)
    : flags_(flags), engine_(engine), writes_(!flags.file.empty() && !flags.read_only) {
  std::error_code ec;
  if (flags.file.empty() || (writes_ && !fs::exists(flags.file, ec) && !ec)) return;
  try {
    const int64_t n = engine.load_prompt(flags.file);
    was_read_ = true;
    log_info(flags.file.string(), ": the KV of ", n, n == 1 ? " token" : " tokens");
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::device || e.kind() == ErrorKind::internal) throw;
    log_warning("--prompt-cache: ", e.message(), "; the prompt is computed",
                writes_ ? ", the file stays as it is" : "");
    writes_ = false;
  }
}

void PromptCache::answered(Prompt prompt, const Answer& answer) {
  const Usage& usage = answer.finished.usage;
  const bool all_was_known = was_read_ && usage.cached_tokens + 1 >= usage.prompt_tokens;
  has_news_ = has_news_ || !all_was_known || flags_.with_answers;
  last_ = std::move(prompt);
  if (!flags_.with_answers) return;
  const int32_t picture = engine_.config().image_token_id;
  for (const TokenChoice& token : answer.tokens) {
    if (token.id == picture) break;  // in a prompt it would be a picture's
    last_.ids.push_back(token.id);
  }
}

void PromptCache::save() {
  if (!writes_ || !has_news_) return;
  const int64_t n = engine_.save_prompt(last_, flags_.file);
  log_info(flags_.file.string(), ": the KV of ", n, n == 1 ? " token" : " tokens", " written");
}

}  // namespace l4::run
