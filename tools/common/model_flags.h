// The flags that say which model is loaded and how, for every tool that loads one.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "l4.h"
#include "tools/common/flags.h"

namespace l4::tools {

struct ModelFlags {
  LoadOptions load;
  bool is_demo = false;  // no model was named

  // Fills in what only the whole command line decides: the demo model, the topology, drafts. Error{usage | io}.
  void complete();

 private:
  friend void add_load_flags(Flags& flags, ModelFlags& model);
  friend void add_engine_flags(Flags& flags, ModelFlags& model);
  std::optional<int> tp_, pp_, ep_, threads_;
  bool enable_ep_ = false, no_graphs_ = false;
  std::optional<int64_t> max_num_seqs_;
  std::optional<int> drafts_;
  bool ngram_ = false;
};

// --dtype, --kv-cache-dtype, --attn-dtype, --head-dtype: types of what is computed, kept and multiplied, and where they go.
struct TypeTargets {
  std::optional<DType>*dtype, *kv_dtype;
  bool *fp8_attention, *fp8_head;
};
void add_type_flags(Flags& flags, const TypeTargets& to);

void add_model_flags(Flags& flags, ModelFlags& model);  // -m, --model and all under "Model"
void add_load_flags(Flags& flags, ModelFlags& model);   // how, without which

// How requests are served side by side: --max-num-seqs, --speculative and all under "Engine".
void add_engine_flags(Flags& flags, ModelFlags& model);

// -v, --log-level: sets the level of base/log.h.
void add_log_flags(Flags& flags);

// "1,2,3", also with white space and in brackets, or "@FILE" holding that. Error{usage} saying where, `name` or the
// file, and what is no id. No name: whoever catches it says it.
std::vector<int32_t> read_ids(const std::string& text, const std::string& name = "--ids");
// Error{usage} beginning with the name for an id that a vocabulary of that size does not have.
void check_ids(const std::vector<int32_t>& ids, int64_t vocab, const std::string& name);
// Text from a file, "-" being standard input. Error{input} when it is not UTF-8.
std::string read_text(const fs::path& path);
// Picture files, ready for a prompt.
std::vector<PreparedImage> read_images(const Frontend& frontend, const std::vector<std::string>& paths);
PreparedImage read_image(const Frontend& frontend, const fs::path& path);
// Ids as they are where they hold image tokens already, the k-th run of them being the k-th picture's; else each
// <|image|> stands for a picture. The first needs no tokenizer.
Prompt prompt_of_ids(const Frontend& frontend, const fs::path& model_dir, std::vector<int32_t> ids,
                     const std::vector<std::string>& image_paths);

}  // namespace l4::tools
