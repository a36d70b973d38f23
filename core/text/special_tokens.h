// The names of Llama 4's special tokens. Ids are always looked up by name in the checkpoint's tokenizer
// (Tokenizer::special_id); image ids come from config.json.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace l4 {

class Tokenizer;

namespace special {
inline constexpr std::string_view kBeginOfText = "<|begin_of_text|>";
inline constexpr std::string_view kEndOfText = "<|end_of_text|>";
inline constexpr std::string_view kHeaderStart = "<|header_start|>";
inline constexpr std::string_view kHeaderEnd = "<|header_end|>";
inline constexpr std::string_view kEom = "<|eom|>";  // end of a message that expects a tool's answer
inline constexpr std::string_view kEot = "<|eot|>";  // end of a turn
inline constexpr std::string_view kPythonStart = "<|python_start|>";
inline constexpr std::string_view kPythonEnd = "<|python_end|>";
inline constexpr std::string_view kImageStart = "<|image_start|>";
inline constexpr std::string_view kImageEnd = "<|image_end|>";
inline constexpr std::string_view kTileX = "<|tile_x_separator|>";
inline constexpr std::string_view kTileY = "<|tile_y_separator|>";
inline constexpr std::string_view kImage =
    "<|image|>";  // the placeholder in prompts, and the mark before the global tile
inline constexpr std::string_view kPatch = "<|patch|>";
}  // namespace special

// Meta's 2,048 special tokens in id order; the first takes the id after the last BPE rank (llama4-spec 5.2).
std::vector<std::string> meta_special_tokens();

// Ids that end a generation: end_of_text, eom, eot, those this tokenizer has. generation_config.json may say otherwise.
std::vector<int32_t> default_stop_ids(const Tokenizer& tokenizer);

}  // namespace l4
