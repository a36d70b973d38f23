// The token side of tiling.h.
#include "base/error.h"
#include "vision/tiling.h"

namespace l4 {

int32_t ImageTokenIds::of(ImageToken token) const {
  switch (token) {
    case ImageToken::image_start:
      return image_start;
    case ImageToken::image_end:
      return image_end;
    case ImageToken::image:
      return image;
    case ImageToken::patch:
      return patch;
    case ImageToken::tile_x_separator:
      return tile_x_separator;
    case ImageToken::tile_y_separator:
      return tile_y_separator;
  }
  fail(ErrorKind::internal, "unknown image token");
}

int64_t count_image_tokens(const ImageLayout& layout) {
  const int64_t n_separators = layout.rows * layout.cols > 1 ? layout.rows * layout.cols : 0;
  return layout.n_patch_tokens() + n_separators + 3;
}

std::vector<ImageToken> image_tokens(const ImageLayout& layout) {
  std::vector<ImageToken> tokens;
  tokens.reserve(size_t(count_image_tokens(layout)));
  const auto add_tile = [&] { tokens.insert(tokens.end(), size_t(layout.tokens_per_tile), ImageToken::patch); };
  tokens.push_back(ImageToken::image_start);
  if (layout.rows * layout.cols > 1) {
    for (int64_t row = 0; row < layout.rows; ++row) {
      for (int64_t col = 0; col < layout.cols; ++col) {
        if (col > 0) tokens.push_back(ImageToken::tile_x_separator);
        add_tile();
      }
      tokens.push_back(ImageToken::tile_y_separator);
    }
  }
  tokens.push_back(ImageToken::image);
  add_tile();
  tokens.push_back(ImageToken::image_end);
  return tokens;
}

ExpandedPrompt expand_placeholders(std::span<const int32_t> ids, int32_t placeholder_id,
                                   std::span<const ImageLayout> layouts, const ImageTokenIds& token_ids,
                                   const std::string& source) {
  size_t n_placeholders = 0;
  for (int32_t id : ids) {
    if (id == placeholder_id) ++n_placeholders;
    if (id == token_ids.patch) {
      fail(ErrorKind::usage, source, ": holds the image patch token (id ", id, "), which only an image may bring");
    }
  }
  if (n_placeholders != layouts.size()) {
    fail(ErrorKind::usage, source, ": ", n_placeholders,
         n_placeholders == 1 ? " image placeholder" : " image placeholders", " for ", layouts.size(),
         layouts.size() == 1 ? " image" : " images");
  }

  ExpandedPrompt prompt;
  for (int32_t id : ids) {
    if (id != placeholder_id) {
      prompt.ids.push_back(id);
      continue;
    }
    const ImageLayout& layout = layouts[prompt.images.size()];
    prompt.images.push_back({int64_t(prompt.ids.size()), count_image_tokens(layout)});
    for (ImageToken token : image_tokens(layout)) prompt.ids.push_back(token_ids.of(token));
  }
  return prompt;
}

}  // namespace l4
