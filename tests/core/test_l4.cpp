#include "l4.h"

#include <algorithm>

#include "core/l4/tiny_checkpoint.h"
#include "support/test.h"
#include "text/special_tokens.h"

using namespace l4;
using namespace l4::test;

namespace {

std::shared_ptr<const Frontend> tiny(std::optional<ChatTemplate> chat_template = {}) {
  TempDir dir;
  write_tiny_checkpoint(dir.path());
  return Frontend::load(dir.path(), chat_template);
}

PreparedImage image_of(int64_t rows, int64_t cols) {
  auto tiles = std::make_shared<ImageTiles>();
  tiles->rows = rows;
  tiles->cols = cols;
  tiles->n_tiles = rows * cols + (rows * cols > 1);
  tiles->digest[0] = uint8_t(10 * rows + cols);
  return tiles;
}

ChatMessage user(ChatMessage::Content content) {
  return {"user", std::move(content), {}};
}

}  // namespace

TEST_CASE("l4: a prompt from text begins with beginning-of-text once") {
  auto f = tiny(ChatTemplate::official);
  const int32_t bos = *f->tokenizer().bos_id();
  const std::vector<int32_t> hello = f->tokenizer().encode("Hello");
  std::vector<int32_t> expected{bos};
  expected.insert(expected.end(), hello.begin(), hello.end());
  CHECK(f->prompt_from_text("Hello").ids == expected);
  CHECK(f->prompt_from_text("<|begin_of_text|>Hello", true).ids == expected);
  CHECK(f->prompt_from_text("<|begin_of_text|>Hello").ids.size() > expected.size());  // ordinary text
  CHECK(f->prompt_from_text("").ids == std::vector<int32_t>{bos});
}

TEST_CASE("l4: a chat prompt is the rendered template's ids") {
  auto f = tiny(ChatTemplate::official);
  ChatRequest chat;
  chat.messages = {user(std::string("Hi"))};
  const std::vector<int32_t> ids = f->prompt_from_chat(chat).ids;
  CHECK(ids == f->tokenizer().encode(f->render(chat)));
  CHECK(f->tokenizer().decode(std::span<const int32_t>(ids), false) == flat_text(f->render(chat)));
  CHECK(ids.front() == *f->tokenizer().bos_id());
}

TEST_CASE("l4: pictures are expanded in place, counted, and refused where they do not fit") {
  auto f = tiny(ChatTemplate::official);
  REQUIRE(f->takes_images());
  const int32_t patch = f->config().image_token_id;
  const int64_t per_tile = f->config().vision->tokens_per_tile();
  ChatRequest chat;
  chat.messages = {user(std::vector<ContentPart>{
      {ContentPart::Kind::image, "", ""}, {ContentPart::Kind::text, "and", ""}, {ContentPart::Kind::image, "", ""}})};
  const PreparedImage images[] = {image_of(1, 1), image_of(1, 2)};
  const Prompt prompt = f->prompt_from_chat(chat, images);
  CHECK(std::count(prompt.ids.begin(), prompt.ids.end(), patch) == 4 * per_tile);
  REQUIRE(prompt.images.size() == 2);
  CHECK(prompt.images[1].n_tiles == 3);
  CHECK(prompt.images[1].digest == images[1]->digest);
  CHECK(prompt.images[1].pixels.get() == &images[1]->pixels);  // shared, not copied

  CHECK(error_of([&] { f->prompt_from_chat(chat, std::span(images, 1)); }).rfind("messages: ", 0) == 0);
  CHECK(error_of([&] { f->prompt_from_chat(chat); }).rfind("messages: ", 0) == 0);
  CHECK(error_of([&] { f->prompt_from_text("no place", true, images); }).rfind("prompt: ", 0) == 0);

  const int32_t placeholder = *f->tokenizer().special_id(special::kImage);
  CHECK(f->prompt_from_ids({5, placeholder, 6}).ids == std::vector<int32_t>{5, placeholder, 6});
  CHECK(f->prompt_from_ids({5, placeholder, 6}, std::span(images, 1)).ids.size() == size_t(2 + per_tile + 3));
  CHECK(f->prompt_from_text("see <|image|>", true, std::span(images, 1)).images.size() == 1);
}

TEST_CASE("l4: default sampling is what generation_config.json asks for") {
  SamplingParams p = tiny()->default_sampling();
  CHECK(p.temperature == doctest::Approx(0.6));
  CHECK(p.top_p == doctest::Approx(0.9));
}

TEST_CASE("l4: a checkpoint without a tokenizer serves ids only") {
  TempDir dir;
  write_file_atomic(dir / "config.json", tiny_config());
  CHECK(error_of([&] { Frontend::load(dir.path()); }).find("tokenizer") != std::string::npos);
  auto f = Frontend::load(dir.path(), {}, true);
  CHECK(!f->has_tokenizer());
  CHECK(!f->takes_images());
  CHECK(f->prompt_from_ids({1, 2}).ids.size() == 2);
  CHECK(error_of([&] { f->prompt_from_text("x"); }).find("neither tokenizer.json nor tokenizer.model") !=
        std::string::npos);
  CHECK(error_of([&] {
          f->prepare_image({}, "cat.png");
        }).find("cat.png: no images: the checkpoint has no tokenizer") == 0);
}

TEST_CASE("l4: a checkpoint without a template completes text, and says what is missing for a chat") {
  auto f = tiny();
  CHECK(!f->chat_template());
  ChatRequest chat;
  chat.messages = {user(std::string("Hi"))};
  CHECK(error_of([&] { f->prompt_from_chat(chat); }).find("has no chat template; --chat-template official|launch") !=
        std::string::npos);
}

TEST_CASE("l4: an unknown template is an error for a chat, not for plain completion") {
  TempDir dir;
  write_tiny_checkpoint(dir.path());
  write_file_atomic(dir / "chat_template.jinja", "{{ messages }}");
  auto f = Frontend::load(dir.path());
  CHECK(!f->prompt_from_text("abc").ids.empty());
  ChatRequest chat;
  chat.messages = {user(std::string("Hi"))};
  CHECK(error_of([&] { f->prompt_from_chat(chat); }).find("--chat-template official|launch") != std::string::npos);
  CHECK(error_of([&] { f->chat_template(); }).find("chat_template.jinja") != std::string::npos);
  CHECK(!Frontend::load(dir.path(), ChatTemplate::official)->prompt_from_chat(chat).ids.empty());
}

TEST_CASE("l4: a tokenizer larger than the model's vocabulary is refused") {
  TempDir dir;
  write_tiny_checkpoint(dir.path());
  write_file_atomic(dir / "config.json", tiny_config(2303));
  CHECK(error_of([&] { Frontend::load(dir.path()); }) ==
        cat(dir.path().string(), ": the tokenizer has 2304 tokens, the model's vocab_size is 2303"));
}

TEST_CASE("l4: device and dtype names") {
  CHECK(parse_device("cpu") == Device::cpu);
  CHECK(parse_device("auto") == Device::automatic);
  CHECK(error_of([] { parse_device("gpu\x01"); }).find("device must be auto, cpu or cuda, not ") == 0);
  CHECK(!parse_dtype_option("auto"));
  CHECK(parse_dtype_option("float32") == DType::f32);
  CHECK(parse_dtype_option("bfloat16") == DType::bf16);
  CHECK(error_of([] { parse_dtype_option("int8"); }).find("dtype must be auto, float32 or bfloat16, not ") == 0);
  CHECK(!parse_kv_dtype_option("auto"));
  for (const char* name : {"bf16", "bfloat16"}) CHECK(parse_kv_dtype_option(name) == DType::bf16);
  for (const char* name : {"fp8", "fp8_e4m3"}) CHECK(parse_kv_dtype_option(name) == DType::f8_e4m3);
  CHECK(error_of([] { parse_kv_dtype_option("fp8_e5m2"); }).find("KV cache dtype must be auto, bf16 or fp8, not ") ==
        0);
}
