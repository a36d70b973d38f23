// Frontend: where text, vision and the model's config meet.
#include <algorithm>
#include <limits>

#include "l4.h"
#include "text/special_tokens.h"

namespace l4 {

namespace {

bool has_tokenizer_file(const fs::path& dir) {
  return fs::exists(dir / "tokenizer.json") || fs::exists(dir / "tokenizer.model");
}

class CheckpointFrontend final : public Frontend {
 public:
  CheckpointFrontend(const fs::path& dir, std::optional<ChatTemplate> chat_template, bool ids_only)
      : dir_(dir), config_(load_model_config(dir)), template_(chat_template) {
    if (!ids_only || has_tokenizer_file(dir)) {
      tokenizer_ = Tokenizer::load(dir);
      if (tokenizer_->vocab_size() > config_.text.vocab)
        fail_input(dir.string(), ": the tokenizer has ", tokenizer_->vocab_size(),
                   " tokens, the model's vocab_size is ", config_.text.vocab);
      if (!template_) find_template(dir);
    }
    if (config_.vision) {
      tiling_ = load_tiling_config(dir, config_.vision->image_size);
      no_images_because_ = find_image_tokens();
    } else {
      no_images_because_ = "the model is text only";
    }
  }

  const ModelConfig& config() const override { return config_; }
  bool has_tokenizer() const override { return tokenizer_ != nullptr; }
  const Tokenizer& tokenizer() const override {
    if (!tokenizer_) fail_input(dir_.string(), ": has neither tokenizer.json nor tokenizer.model");
    return *tokenizer_;
  }
  std::optional<ChatTemplate> chat_template() const override {
    if (unknown_template_) throw *unknown_template_;
    return template_;
  }
  bool takes_images() const override { return no_images_because_.empty(); }

  SamplingParams default_sampling() const override {
    const GenerationConfig& g = config_.generation;
    SamplingParams p;
    p.temperature = g.do_sample ? g.temperature : 0.0f;
    p.top_k = int32_t(std::min<int64_t>(g.top_k, std::numeric_limits<int32_t>::max()));
    p.top_p = g.top_p;
    p.min_p = g.min_p;
    p.repetition_penalty = g.repetition_penalty;
    return p;
  }

  PreparedImage prepare_image(std::span<const std::byte> file, std::string_view source,
                              const ImageLimits& limits) const override {
    if (!takes_images()) fail(ErrorKind::unsupported, source, ": no images: ", no_images_because_);
    return std::make_shared<const ImageTiles>(preprocess(decode_image(file, source, limits), tiling_));
  }

  std::vector<TextSegment> render(const ChatRequest& chat) const override {
    if (!chat_template())
      fail(ErrorKind::usage, dir_.string(), ": has no chat template; --chat-template official|launch gives one");
    return render_chat(*template_, chat);
  }

  Prompt prompt_from_chat(const ChatRequest& chat, std::span<const PreparedImage> images) const override {
    if (!takes_images() && !image_parts(chat).empty())
      fail(ErrorKind::unsupported, "messages: no images: ", no_images_because_);
    return expand(tokenizer().encode(render(chat)), images, "messages");
  }

  Prompt prompt_from_text(std::string_view text, bool parse_special,
                          std::span<const PreparedImage> images) const override {
    std::vector<int32_t> ids = tokenizer().encode(text, parse_special);
    const std::optional<int32_t> bos = tokenizer().bos_id();
    if (bos && (ids.empty() || ids.front() != *bos)) ids.insert(ids.begin(), *bos);
    return parse_special || !images.empty() ? expand(std::move(ids), images, "prompt") : Prompt{std::move(ids), {}};
  }

  Prompt prompt_from_ids(std::vector<int32_t> ids, std::span<const PreparedImage> images) const override {
    return images.empty() ? Prompt{std::move(ids), {}} : expand(std::move(ids), images, "prompt");
  }

 private:
  // Looks up the tokens that stand around a picture. Says what is missing, if anything.
  std::string find_image_tokens() {
    if (!tokenizer_) return "the checkpoint has no tokenizer";
    const std::pair<std::string_view, int32_t*> wanted[] = {{special::kImageStart, &image_ids_.image_start},
                                                            {special::kImageEnd, &image_ids_.image_end},
                                                            {special::kImage, &image_ids_.image},
                                                            {special::kTileX, &image_ids_.tile_x_separator},
                                                            {special::kTileY, &image_ids_.tile_y_separator}};
    for (auto [name, id] : wanted) {
      const std::optional<int32_t> found = tokenizer_->special_id(name);
      if (!found) return cat("the tokenizer has no token ", name);
      *id = *found;
    }
    image_ids_.patch = config_.image_token_id;
    if (image_ids_.patch < 0) return "config.json has no image_token_index";
    return {};
  }

  Prompt expand(std::vector<int32_t> ids, std::span<const PreparedImage> images, const std::string& source) const {
    if (!takes_images()) {
      if (!images.empty()) fail(ErrorKind::unsupported, source, ": no images: ", no_images_because_);
      return {std::move(ids), {}};
    }
    std::vector<ImageLayout> layouts;
    Prompt prompt;
    for (const PreparedImage& image : images) {
      layouts.push_back({image->rows, image->cols, config_.vision->tokens_per_tile()});
      prompt.images.push_back({{image, &image->pixels}, image->n_tiles, image->digest});
    }
    prompt.ids = expand_placeholders(ids, image_ids_.image, layouts, image_ids_, source).ids;
    return prompt;
  }

  // A template that is not one of ours is an error for who asks for it, not for plain completion.
  void find_template(const fs::path& dir) {
    try {
      template_ = find_chat_template(dir);
    } catch (const Error& e) {
      unknown_template_ = e;
    }
  }

  fs::path dir_;
  ModelConfig config_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::optional<ChatTemplate> template_;
  std::optional<Error> unknown_template_;
  TilingConfig tiling_;
  ImageTokenIds image_ids_;
  std::string no_images_because_;  // empty: it takes images
};

}  // namespace

std::shared_ptr<const Frontend> Frontend::load(const fs::path& model_dir, std::optional<ChatTemplate> chat_template,
                                               bool ids_only) {
  return std::make_shared<CheckpointFrontend>(model_dir, chat_template, ids_only);
}

}  // namespace l4
