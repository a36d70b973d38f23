// l4-eval logits against the golden models.
#include <fstream>

#include "formats/npy.h"
#include "model/config.h"
#include "support/golden_model.h"
#include "tools/run_tool.h"

using namespace l4::test;

namespace {

std::string joined(const std::vector<int32_t>& ids) {
  std::string out;
  for (int32_t id : ids) out += l4::cat(out.empty() ? "" : ",", id);
  return out;
}

Result logits(std::vector<std::string> words) {
  words.insert(words.begin(), "logits");
  return run(tool("l4-eval", words));
}

}  // namespace

TEST_CASE("l4-eval: logits are those of the golden models") {
  for (const std::string name : {"stored_v4", "stored_sharded"}) {
    CAPTURE(name);
    GoldenModel g(name);
    if (!g.images.empty()) continue;
    TempDir dir;
    const std::string out = (dir / "out.npy").string();
    const Result r = logits({"-m", golden("models/" + name + "/checkpoint").string(), "--ids", joined(g.prompt),
                             "--dtype", "float32", "-o", out});
    CHECK_MESSAGE(r.status == 0, r.err);
    CHECK(r.out == "");
    CHECK(r.err == "");
    const l4::NpyMatrix m = l4::read_npy(out);
    CHECK(m.rows == int64_t(g.prompt.size()));
    CHECK(m.cols == g.vocab);
    CHECK(g.logits_difference(m.values, 1e-4) == "");
  }
}

TEST_CASE("l4-eval: a picture's tokens may be expanded already") {
  const std::string picture = golden("vision/files/rgb8.png").string();
  TempDir dir;
  const auto ids_of = [](const std::string& text) { return output_of({"--tokenize", "--special", "-p", text}); };
  const std::string one = (dir / "one.npy").string(), two = (dir / "two.npy").string();
  const l4::ModelConfig config = l4::load_model_config(demo_model());
  REQUIRE(config.vision);
  std::string patches;
  for (int64_t i = 0; i < config.vision->tokens_per_tile(); ++i) patches += "<|patch|>";
  const auto compute = [&](const std::string& text, const std::string& out) {
    std::ofstream(dir / "ids") << ids_of(text);
    return logits({"-m", demo_model(), "--ids", l4::cat("@", (dir / "ids").string()), "--image", picture, "-o", out});
  };
  CHECK(compute("<|begin_of_text|>See <|image|> this", one).status == 0);
  CHECK(compute("<|begin_of_text|>See <|image_start|><|image|>" + patches + "<|image_end|> this", two).status == 0);
  CHECK(l4::read_npy(one).values == l4::read_npy(two).values);
  CHECK(one_line_error(compute("<|begin_of_text|>See <|image_start|><|image|><|patch|><|image_end|>", one), 2)
            .find("image") != std::string::npos);
}

TEST_CASE("l4-eval: a signal leaves no unfinished file") {
  TempDir dir;
  std::string ids = "1";
  for (int i = 1; i < 4000; ++i) ids += ",1";  // takes a while
  for (const auto& [signal, status] : {std::pair{"INT", 130}, {"TERM", 143}}) {
    const std::string out = (dir / "x.npy").string();
    // Sent once the file is there.
    const std::string command =
        l4::cat((binary_dir() / "l4-eval").string(), " logits -m ", demo_model(), " --ids ", ids, " -o ", out,
                " & while ! ls ", out, ".tmp* >/dev/null 2>&1; do :; done; kill -s ", signal, " $!; wait $!");
    CHECK(run({"bash", "-mc", command}).status == status);
    CHECK(std::filesystem::is_empty(dir.path()));
  }
}

TEST_CASE("l4-eval: what is wrong is said before weights are read") {
  TempDir dir;  // without weights
  for (const auto& entry : std::filesystem::directory_iterator(demo_model()))
    if (entry.path().extension() != ".safetensors")
      std::filesystem::copy(entry.path(), dir.path() / entry.path().filename());
  const std::string model = dir.path().string(), out = (dir / "x.npy").string();
  CHECK(one_line_error(logits({"-m", model, "--ids", "1", "-o", out}), 1).find("safetensors") != std::string::npos);
  CHECK(one_line_error(logits({"-m", model, "--ids", "1,999999", "-o", out}), 2).find("--ids: token id 999999") !=
        std::string::npos);
  CHECK(one_line_error(logits({"-m", model, "--ids", "1", "--image", "/no/such.png", "-o", out}), 1)
            .find("/no/such.png") != std::string::npos);
  CHECK(one_line_error(logits({"-m", model, "--ids", "1", "-o", "/no/such/folder/x.npy"}), 1).find("/no/such/folder") !=
        std::string::npos);
}

TEST_CASE("l4-eval: wrong command lines") {
  CHECK(one_line_error(run(tool("l4-eval", {})), 2).find("logits") != std::string::npos);
  CHECK(one_line_error(run(tool("l4-eval", {"iq"})), 2).find("iq") != std::string::npos);
  CHECK(run(tool("l4-eval", {"--help"})).status == 0);
  CHECK(run(tool("l4-eval", {"logits", "--help"})).status == 0);
  CHECK(one_line_error(logits({"-m", demo_model(), "-o", "/tmp/x.npy"}), 2).find("--ids") != std::string::npos);
  CHECK(one_line_error(logits({"-m", demo_model(), "--ids", "1"}), 2).find("-o") != std::string::npos);
  CHECK(one_line_error(logits({"-m", demo_model(), "--ids", "1", "-o", "/no/such/folder/x.npy"}), 1)
            .find("/no/such/folder") != std::string::npos);
}
