// --prompt-cache: the KV of a prompt kept in a file, so that the next run need not compute it. The names are
// llama.cpp's.
#pragma once

#include "tools/common/flags.h"
#include "tools/run/answer.h"

namespace l4::run {

struct PromptCacheFlags {
  fs::path file;  // empty: none
  bool with_answers = false, read_only = false;

  void check() const;  // Error{usage}
};
void add_prompt_cache_flags(tools::Flags& flags, PromptCacheFlags& options);

class PromptCache {
 public:
  // Reads the file where it is there. What is wrong with it is a warning; it is not written then.
  PromptCache(const PromptCacheFlags& flags, Engine& engine);

  // The last prompt that was answered is what save() writes.
  void answered(Prompt prompt, const Answer& answer);
  // Nothing where nothing was answered, or where all of it came from the file. Error{io} naming the file.
  void save();

 private:
  const PromptCacheFlags flags_;
  Engine& engine_;
  bool writes_, was_read_ = false, has_news_ = false;
  Prompt last_;
};

}  // namespace l4::run
