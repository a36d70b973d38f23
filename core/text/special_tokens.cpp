#include "text/special_tokens.h"

#include <optional>

#include "base/strings.h"
#include "text/tokenizer.h"

namespace l4 {

std::vector<std::string> meta_special_tokens() {
  constexpr int kTotal = 2048;
  std::vector<std::string> names;
  names.reserve(kTotal);
  auto add = [&](std::string_view name) { names.push_back(cat("<|", name, "|>")); };
  auto reserve = [&](std::string_view group, int first, int end) {
    for (int i = first; i < end; ++i) names.push_back(cat("<|", group, "reserved_special_token_", i, "|>"));
  };
  for (const char* name : {"begin_of_text", "end_of_text", "fim_prefix", "fim_middle", "fim_suffix", "header_start",
                           "header_end", "eom", "eot", "step"})
    add(name);
  reserve("text_post_train_", 0, 6);
  for (const char* name : {"python_start", "python_end", "finetune_right_pad"}) add(name);
  reserve("text_post_train_", 8, 69);
  for (const char* name : {"image_start", "image_end"}) add(name);
  reserve("vision_", 0, 2);
  for (const char* name : {"tile_x_separator", "tile_y_separator"}) add(name);
  reserve("vision_", 2, 6);
  add("image");
  reserve("vision_", 6, 7);
  add("patch");
  reserve("vision_", 7, 1048);
  reserve("reasoning_", 0, 8);
  for (const char* name : {"reasoning_thinking_start", "reasoning_thinking_end"}) add(name);
  reserve("", 0, kTotal - int(names.size()));
  return names;
}

std::vector<int32_t> default_stop_ids(const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (std::string_view name : {special::kEndOfText, special::kEom, special::kEot})
    if (std::optional<int32_t> id = tokenizer.special_id(name)) ids.push_back(*id);
  return ids;
}

}  // namespace l4
