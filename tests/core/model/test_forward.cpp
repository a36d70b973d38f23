// The whole model against transformers (tests/golden/models), in one piece, in parts, and on several ranks.
#include <cmath>
#include <fstream>

#include "model/config.h"
#include "model/text_model.h"
#include "support/golden_model.h"
#include "support/one_sequence.h"
#include "support/test.h"

using namespace l4;
using namespace l4::test;

namespace {

// A golden case, loaded.
struct Case {
  explicit Case(const std::string& name)
      : golden(name), dir(golden.checkpoint(scratch.path())), config(load_model_config(dir)), checkpoint(dir) {}

  std::unique_ptr<OneSequence> model(DType dtype, Topology topology = {}, int threads = 2) const {
    ExecutorOptions options;
    options.topology = topology;
    options.dtype = dtype;
    options.cpu_threads = threads;
    auto m = std::make_unique<OneSequence>(config, checkpoint, options, int64_t(golden.prompt.size()) + 41);
    return m;
  }
  void encode(OneSequence& m, int64_t tiles_per_pass = 8) const {
    if (!golden.images.empty()) m.encode(golden.pixel_values(), golden.pixel_shape[0], tiles_per_pass);
  }
  bool divides(const Topology& t) const {
    const TextConfig& x = config.text;
    return x.n_kv_heads % t.tp == 0 && x.n_heads % t.tp == 0 && x.vocab % t.tp == 0 && x.ffn % t.tp == 0 &&
           x.dense_ffn % t.tp == 0 && x.n_experts % t.ep == 0;
  }

  GoldenModel golden;
  TempDir scratch;
  std::filesystem::path dir;
  ModelConfig config;
  HfCheckpoint checkpoint;
};

// |a - b| / |b| of a row. A tanh GELU in the vision tower, the smallest of
// the rules that scripts/golden/mutants.py breaks, moves rows by 7e-5, and what we differ by is below 1e-5.
constexpr double kFp32 = 2e-5;

std::vector<float> in_parts(OneSequence& m, std::span<const int32_t> ids, size_t part) {
  std::vector<float> all;
  for (size_t i = 0; i < ids.size(); i += part) {
    std::vector<float> some = m.append(ids.subspan(i, std::min(part, ids.size() - i)));
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

int32_t best(std::span<const float> row) {
  return int32_t(std::max_element(row.begin(), row.end()) - row.begin());
}

}  // namespace

TEST_CASE("forward: fp32 activations and logits of every golden model are transformers'") {
  for (const std::string& name : GoldenModel::names()) {
    CAPTURE(name);
    Case c(name);
    auto m = c.model(DType::f32);
    std::string first_difference;
    m->executor->set_trace([&](const std::string& activation, const std::vector<float>& values, const Shape&) {
      if (activation.ends_with(".experts")) return;  // the golden data has none
      if (first_difference.empty()) first_difference = c.golden.difference(activation, 0, values, kFp32);
    });
    c.encode(*m);
    std::vector<float> logits = m->append(c.golden.prompt);
    CHECK(first_difference == "");
    CHECK(c.golden.logits_difference(logits, kFp32) == "");
    CHECK(c.golden.logits_distance(logits, c.golden.logits) <= kFp32);
  }
}

TEST_CASE("forward: 40 greedy tokens in fp32 are transformers'") {
  for (const std::string& name : GoldenModel::names()) {
    CAPTURE(name);
    Case c(name);
    auto m = c.model(DType::f32);
    c.encode(*m);
    std::vector<float> logits = m->append(c.golden.prompt, false);
    std::vector<int32_t> ids{best(logits)};
    while (ids.size() < c.golden.greedy.size()) ids.push_back(best(m->append(std::span(&ids.back(), 1))));
    CHECK(ids == c.golden.greedy);
  }
}

TEST_CASE("forward: prefill, token by token and in parts across chunk edges agree bit for bit") {
  for (const std::string& name : GoldenModel::names()) {
    CAPTURE(name);
    Case c(name);
    for (DType dtype : {DType::f32, DType::bf16}) {
      std::vector<float> whole;
      for (size_t part : {size_t(1000), size_t(1), size_t(3), size_t(8), size_t(11), size_t(37)}) {
        CAPTURE(part);
        auto m = c.model(dtype, {}, part % 2 ? 1 : 2);
        c.encode(*m, part % 3 ? 8 : 1);
        std::vector<float> logits = in_parts(*m, c.golden.prompt, part);
        if (whole.empty())
          whole = logits;
        else
          CHECK(logits == whole);
      }
    }
  }
}

TEST_CASE("forward: bf16 stays as near to fp32 as transformers' own bf16") {
  for (const std::string& name : GoldenModel::names()) {
    CAPTURE(name);
    Case c(name);
    if (c.golden.bf16_logits.values.empty()) continue;
    auto m = c.model(DType::bf16);
    c.encode(*m);
    std::vector<float> logits = m->append(c.golden.prompt);
    // The rounding points are the reference's, the order of additions is not, and a rounding can flip an expert where
    // two router logits nearly tie, which throws a few positions far off. Hence medians over positions: of a position's
    // distance to the reference's bf16, and to fp32, against the distance the reference's bf16 itself has to fp32.
    std::vector<double> to_bf16_reference, to_fp32, natural;
    const int64_t vocab = c.config.text.vocab;
    for (size_t i = 0; i < c.golden.logit_positions.size(); ++i) {
      auto row = std::span(logits).subspan(size_t(c.golden.logit_positions[i] * vocab), size_t(vocab));
      const auto bf16_row = c.golden.bf16_logits.row(int64_t(i)), fp32_row = c.golden.logits.row(int64_t(i));
      to_bf16_reference.push_back(relative_distance(row, bf16_row));
      to_fp32.push_back(relative_distance(row, fp32_row));
      natural.push_back(relative_distance(bf16_row, fp32_row));
    }
    CHECK(median(to_bf16_reference) < 1.1 * median(natural));
    CHECK(median(to_fp32) < 1.2 * median(natural));
  }
}

TEST_CASE("forward: tensor, pipeline and expert parallel ranks give what one rank gives") {
  for (const std::string& name : GoldenModel::names()) {
    CAPTURE(name);
    Case c(name);
    for (Topology t : {Topology{2, 1, 1}, Topology{2, 1, 2}, Topology{1, 2, 1}, Topology{2, 2, 2}, Topology{1, 3, 1}}) {
      if (!c.divides(t)) continue;
      CAPTURE(t.tp);
      CAPTURE(t.pp);
      CAPTURE(t.ep);
      auto m = c.model(DType::f32, t);
      c.encode(*m, 3);
      CHECK(c.golden.logits_difference(in_parts(*m, c.golden.prompt, 19), kFp32) == "");
    }
  }
}

TEST_CASE("forward: bf16 on two ranks stays within bf16's own deviation") {
  for (const std::string& name : GoldenModel::names()) {
    CAPTURE(name);
    Case c(name);
    if (c.golden.bf16_logits.values.empty() || !c.divides({2, 1, 1})) continue;
    auto one = c.model(DType::bf16);
    auto two = c.model(DType::bf16, {2, 1, 1});
    c.encode(*one), c.encode(*two);
    CHECK(relative_distance(two->append(c.golden.prompt), one->append(c.golden.prompt)) < 1.5 * c.golden.bf16_distance);
  }
}

TEST_CASE("forward: what a measuring run counts is enough for pictures, where text needs next to nothing") {
  for (const std::string& name : GoldenModel::names()) {
    CAPTURE(name);
    Case c(name);
    if (c.golden.images.empty()) continue;
    const int64_t n_tiles = c.golden.pixel_shape[0];
    for (DType dtype : {DType::f32, DType::bf16})
      for (int tp : {1, 2}) {
        if (!c.divides({tp, 1, 1})) continue;
        ExecutorOptions options;
        options.topology = {tp, 1, 1};
        options.dtype = dtype;
        options.kv_pages[0] = options.kv_pages[1] = 1;
        options.max_step_rows = options.max_out_rows = 1;
        options.max_step_tiles = n_tiles;
        options.encoder_rows = n_tiles * c.config.vision->tokens_per_tile();
        Executor executor(c.config, c.checkpoint, options);
        std::vector<BFloat16> pixels;
        for (float v : c.golden.pixel_values()) pixels.push_back(to_bf16(v));
        executor.encode_tiles(pixels, n_tiles, 0);  // throws where the arena is too small
      }
  }
}

TEST_CASE("forward: logits that are NaN are an error, not an answer") {
  Case c("stored_v4");
  TempDir poisoned;
  for (const auto& entry : std::filesystem::directory_iterator(c.dir))
    std::filesystem::copy_file(entry.path(), poisoned / entry.path().filename().string());
  const TensorInfo* norm = c.checkpoint.find("language_model.model.norm.weight");
  REQUIRE(norm);
  const SafetensorsFile& shard = c.checkpoint.shard(*norm);
  std::fstream file(poisoned / shard.path().filename().string(), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(std::streamoff(norm->begin));
  file.write("\xFF\xFF", 2);  // the first element: NaN in bf16
  file.close();
  const HfCheckpoint checkpoint(poisoned.path());
  ExecutorOptions options;
  OneSequence m(c.config, checkpoint, options, 8);
  CHECK(error_of([&] { m.append(std::span(c.golden.prompt).first(3)); }).find("logits at position 0 are NaN") !=
        std::string::npos);
}

TEST_CASE("forward: a model that does not fit is refused before anything is read") {
  Case c(GoldenModel::names().front());
  ExecutorOptions options;
  options.max_step_rows = options.max_out_rows = 1;
  options.kv_pages[0] = options.kv_pages[1] = int64_t(1) << 40;
  CHECK(error_of([&] { Executor(c.config, c.checkpoint, options); }).find("is free") != std::string::npos);
}
