#include "vision/tiling.h"

#include <algorithm>
#include <string>

#include "vision_golden.h"

using namespace l4;
using namespace l4::test;

namespace {

constexpr ImageTokenIds kIds{200080, 200081, 200090, 200092, 200084, 200085};

std::string plan_text(int64_t height, int64_t width, TilingConfig config = {}) {
  const TilePlan plan = plan_tiles(height, width, config);
  return cat(plan.rows, "x", plan.cols, " ", plan.resized_height, "x", plan.resized_width, " ", plan.n_tiles);
}

Image plain(int64_t height, int64_t width, uint8_t level) {
  return {height, width, std::vector<uint8_t>(size_t(height * width * 3), level)};
}

// "s4x4x4y4i4e": runs of patches as numbers.
std::string layout_text(const std::vector<ImageToken>& tokens) {
  std::string text;
  int64_t run = 0;
  for (ImageToken token : tokens) {
    if (token == ImageToken::patch) {
      ++run;
      continue;
    }
    if (run) text += std::to_string(run);
    run = 0;
    text += "seipxy"[size_t(token)];
  }
  return text;
}

}  // namespace

// Canvas, resized size, tiles: what transformers 5.17's Llama4ImageProcessor makes of these sizes.
TEST_CASE("tiling: plans of the check table") {
  CHECK(plan_text(1, 1) == "1x1 336x336 1");
  CHECK(plan_text(336, 336) == "1x1 336x336 1");
  CHECK(plan_text(50, 40) == "1x1 336x268 1");
  CHECK(plan_text(337, 336) == "2x1 337x336 3");
  CHECK(plan_text(400, 300) == "2x1 400x300 3");
  CHECK(plan_text(300, 800) == "1x3 300x800 4");
  CHECK(plan_text(480, 640) == "2x2 480x640 5");
  CHECK(plan_text(672, 1008) == "2x3 672x1008 7");
  CHECK(plan_text(1000, 1000) == "3x3 1000x1000 10");
  CHECK(plan_text(1080, 1920) == "3x5 945x1680 16");
  CHECK(plan_text(2000, 300) == "6x1 2000x300 7");
  CHECK(plan_text(5000, 5000) == "4x4 1344x1344 17");
  CHECK(plan_text(336, 5376) == "1x16 336x5376 17");
  CHECK(plan_text(100, 3000) == "1x9 100x3000 10");
  CHECK(plan_text(1, 65535) == "1x16 1x5376 17");
}

TEST_CASE("tiling: plans equal to transformers' for hundreds of sizes") {
  for (const Json& one : golden_cases("plans.json")) {
    const auto n = [&](size_t i) { return one.as_array()[i].as_integer(); };
    CAPTURE(dump_json(one));
    const TilePlan plan = plan_tiles(n(0), n(1), {n(2), n(3), n(4) != 0});
    CHECK(plan.rows == n(5));
    CHECK(plan.cols == n(6));
    CHECK(plan.resized_height == n(7));
    CHECK(plan.resized_width == n(8));
    CHECK(plan.n_tiles == n(9));
  }
}

// Bit for bit, resized tiles included.
TEST_CASE("tiling: pixels equal to Llama4ImageProcessor's") {
  for (const Json& one : golden_cases("preprocessed.json")) {
    CAPTURE(dump_json(one));
    const int64_t tile = integer(one, "tile");
    const TilingConfig config{tile, integer(one, "max_tiles"), one.find("fill")->as_bool()};
    const ImageTiles tiles = preprocess(pattern(integer(one, "height"), integer(one, "width")), config);
    CHECK(tiles.rows == integer(one, "rows"));
    CHECK(tiles.cols == integer(one, "cols"));
    CHECK(tiles.tile == tile);
    REQUIRE(tiles.n_tiles == integer(one, "n_tiles"));
    const auto& hashes = one.find("bf16_sha256")->as_array();
    for (size_t t = 0; t < hashes.size(); ++t) {
      const size_t n_values = size_t(3 * tile * tile);
      CHECK(sha256_hex(&tiles.pixels[t * n_values], n_values * 2) == hashes[t].as_string());
    }
  }
}

// The layouts that Meta's prompt format document prints for its own pictures.
TEST_CASE("tiling: Meta's examples") {
  const auto text = read_file(shared_data("chat/meta_prompt_format_examples.jsonl"), 1 << 20);
  const auto layout_of = [](const Image& image) {
    const TilePlan plan = plan_tiles(image.height, image.width, {});
    std::string out;
    int64_t run = 0;
    const char* names[] = {"<|image_start|>",      "<|image_end|>",       "<|image|>", "",
                           "<|tile_x_separator|>", "<|tile_y_separator|>"};
    for (ImageToken token : image_tokens({plan.rows, plan.cols, 144})) {
      if (token == ImageToken::patch) {
        ++run;
        continue;
      }
      if (run) out += cat("[patch*", run, "]");
      run = 0;
      out += names[size_t(token)];
    }
    return out;
  };
  const auto picture = [](const char* name) {
    const MappedFile file(shared_data(cat("chat/", name)));
    return decode_image(file.bytes(), name);
  };
  const std::string dog = layout_of(picture("meta_dog.jpg")), pasta = layout_of(picture("meta_pasta.jpeg"));
  const std::string small = layout_of({200, 200, {}});
  std::vector<std::string> printed;
  for (const std::string& line : split(text, '\n')) {
    if (trim(line).empty()) continue;
    const Json example = parse_json(line, "examples");
    const Json* layouts = example.find("image_layouts");
    for (size_t i = 0; layouts && i < layouts->as_array().size(); ++i)
      printed.push_back(layouts->as_array()[i].as_string());
  }
  CHECK(printed == std::vector<std::string>{small, dog, dog, pasta});
}

TEST_CASE("tiling: grey levels as bf16") {
  const std::pair<int, float> known[] = {
      {0, -1}, {1, -0.9921875f}, {56, -0.5625f}, {106, -0.16796875f}, {127, -0.00390625f}, {128, 0.0078125f}, {255, 1}};
  for (auto [level, value] : known) CHECK(to_float(normalised_pixel(uint8_t(level))) == value);
}

TEST_CASE("tiling: padding is black, tiles go row by row, the global tile comes last") {
  TilingConfig config{4, 4, false};
  Image image = plain(8, 8, 0);  // four quarters of their own level
  for (int64_t y = 0; y < 8; ++y)
    for (int64_t x = 0; x < 8; ++x)
      for (int64_t c = 0; c < 3; ++c)
        image.rgb[size_t((y * 8 + x) * 3 + c)] = uint8_t(50 * (1 + y / 4 * 2 + x / 4) + c);
  const ImageTiles tiles = preprocess(image, config);
  REQUIRE(tiles.n_tiles == 5);
  REQUIRE(tiles.pixels.size() == 5 * 3 * 16);
  for (size_t tile = 0; tile < 4; ++tile) {
    for (size_t c = 0; c < 3; ++c) {
      CHECK(tiles.pixels[(tile * 3 + c) * 16 + 5].bits == normalised_pixel(uint8_t(50 * (tile + 1) + c)).bits);
    }
  }
  CHECK(tiles.pixels[4 * 48].bits == normalised_pixel(50).bits);
  CHECK(tiles.pixels[4 * 48 + 15].bits == normalised_pixel(200).bits);

  const ImageTiles padded = preprocess(plain(5, 3, 255), config);
  CHECK(padded.rows == 2);
  CHECK(padded.cols == 1);
  CHECK(to_float(padded.pixels[3]) == -1);  // first tile, first row, right of the picture
  CHECK(to_float(padded.pixels[0]) == 1);
  CHECK(to_float(padded.pixels[48 + 4]) == -1);  // second tile, below it
  CHECK(to_float(padded.pixels[48]) == 1);
}

TEST_CASE("tiling: the digest tells pictures and layouts apart") {
  TilingConfig config{4, 4, false};
  const ImageDigest black = preprocess(plain(4, 8, 0), config).digest;
  CHECK(black == preprocess(plain(4, 8, 0), config).digest);
  CHECK(black != preprocess(plain(8, 4, 0), config).digest);  // the same pixels in another layout
  Image other = plain(4, 8, 0);
  other.rgb[70] = 1;
  CHECK(black != preprocess(other, config).digest);
}

TEST_CASE("tiling: token sequences and their length") {
  CHECK(layout_text(image_tokens({1, 1, 4})) == "si4e");
  CHECK(layout_text(image_tokens({2, 3, 4})) == "s4x4x4y4x4x4yi4e");
  CHECK(layout_text(image_tokens({2, 1, 4})) == "s4y4yi4e");
  const int64_t counts[][3] = {{1, 1, 147}, {2, 3, 1017}, {4, 4, 2467}, {3, 4, 1887}, {2, 2, 727}, {3, 5, 2322}};
  for (auto [rows, cols, n] : counts) {
    CHECK(count_image_tokens({rows, cols, 144}) == n);
    CHECK(int64_t(image_tokens({rows, cols, 144}).size()) == n);
  }
}

TEST_CASE("tiling: placeholders are replaced in order") {
  const std::vector<int32_t> ids = {1, 200090, 2, 200090};
  const std::vector<ImageLayout> layouts = {{1, 1, 1}, {1, 2, 1}};
  const ExpandedPrompt prompt = expand_placeholders(ids, 200090, layouts, kIds);
  const std::vector<int32_t> wanted = {1,      200080, 200090, 200092, 200081, 2,      200080,
                                       200092, 200084, 200092, 200085, 200090, 200092, 200081};
  CHECK(prompt.ids == wanted);
  REQUIRE(prompt.images.size() == 2);
  CHECK(prompt.images[0].begin == 1);
  CHECK(prompt.images[0].n_tokens == 4);
  CHECK(prompt.images[1].begin == 6);
  CHECK(prompt.images[1].n_tokens == 8);

  CHECK(error_of([&] { expand_placeholders(ids, 200090, std::span(layouts).first(1), kIds); }) ==
        "prompt: 2 image placeholders for 1 image");
  const std::vector<int32_t> patched = {1, 200092};
  CHECK(error_of([&] { expand_placeholders(patched, 200090, {}, kIds); }) ==
        "prompt: holds the image patch token (id 200092), which only an image may bring");
}

TEST_CASE("tiling: preprocessor_config.json") {
  const auto parse = [](const char* text) { return parse_tiling_config(parse_json(text, "p.json"), "p.json", 336); };
  CHECK(parse("{}").max_tiles == 16);
  CHECK(parse(R"({"max_patches": 4, "size": {"height": 336, "width": 336}, "resize_to_max_canvas": true})").max_tiles ==
        4);
  CHECK(parse(R"({"resize_to_max_canvas": true})").resize_to_max_canvas);
  CHECK(error_of([&] { parse(R"({"resample": 3})"); }) == "p.json: resample is 3; only 2 (bilinear) is supported");
  CHECK(error_of([&] { parse(R"({"image_mean": [0.4, 0.5, 0.5]})"); }) ==
        "p.json: image_mean is [0.4, 0.5, 0.5]; only [0.5, 0.5, 0.5] is supported");
  CHECK(error_of([&] { parse(R"({"size": {"height": 448, "width": 448}})"); }).find("image_size, 336x336") !=
        std::string::npos);
  CHECK(error_of([&] { parse(R"({"max_patches": 0})"); }) == "p.json: max_patches is 0, expected 1 to 256");
  CHECK(error_of([&] { parse(R"({"do_rescale": false})"); }) == "p.json: do_rescale is false; only true is supported");
  CHECK(error_of([&] { parse(R"({"image_processor_type": "CLIPImageProcessor"})"); }).find("CLIPImageProcessor") !=
        std::string::npos);

  const auto dir = shared_data("config/meta-llama--Llama-4-Scout-17B-16E-Instruct");
  const TilingConfig scout = load_tiling_config(dir, 336);
  CHECK(scout.tile == 336);
  CHECK(scout.max_tiles == 16);
  CHECK(!scout.resize_to_max_canvas);
}
