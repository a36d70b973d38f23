// l4-convert: what it learns by running the model on text.
#include <algorithm>
#include <cmath>
#include <random>

#include "model/kv_scales.h"
#include "support/one_sequence.h"
#include "tools/convert/calibrate.h"
#include "tools/convert/convert.h"
#include "tools/convert/verify.h"
#include "tools/input_recorder.h"
#include "tools/run_tool.h"
#include "tools/tiny_source.h"

using namespace l4;
using namespace l4::test;
using convert::ConvertOptions;
using convert::LayerRunner;
using convert::Sequences;
using convert::Site;

namespace {

// Not of the image tokens, which are below.
Sequences random_sequences(std::vector<int> lengths, uint32_t seed) {
  std::mt19937 random(seed);
  Sequences sequences;
  for (const int n : lengths) {
    sequences.emplace_back();
    for (int i = 0; i < n; ++i) sequences.back().push_back(int32_t(210 + random() % 90));
  }
  return sequences;
}

// A tiny source whose experts are chosen clearly and whose layers do something.
Tensors lively_source(const fs::path& dir) {
  return write_tiny_source(dir, DType::bf16, false, [](const std::string& name, std::vector<float>& values) {
    const float size =
        name.find("norm.weight") != std::string::npos || name.find("layernorm.weight") != std::string::npos ? 20.0f
        : name.find("router") != std::string::npos                                                          ? 10.0f
                                                                                                            : 3.0f;
    for (float& w : values) w = round_bf16(w * size);
  });
}

// x [k] times rows of w [n, k]; w transposed: [k, n].
std::vector<double> product(std::span<const float> x, std::span<const float> w, int64_t n, bool transposed = false) {
  std::vector<double> y(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i)
    for (size_t j = 0; j < x.size(); ++j)
      y[size_t(i)] += double(x[j]) * double(transposed ? w[j * size_t(n) + size_t(i)] : w[size_t(i) * x.size() + j]);
  return y;
}

std::vector<double> normed(const std::vector<double>& x, std::span<const float> weight) {
  double squares = 0;
  for (const double value : x) squares += value * value / double(x.size());
  std::vector<double> y;
  for (size_t i = 0; i < x.size(); ++i) y.push_back(x[i] / std::sqrt(squares + 1e-5) * double(weight[i]));
  return y;
}

double silu(double x) {
  return x / (1 + std::exp(-x));
}

void check_close(std::span<const float> found, const std::vector<double>& expected) {
  REQUIRE(found.size() == expected.size());
  double squares = 1e-12, off = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    squares += expected[i] * expected[i];
    off += (double(found[i]) - expected[i]) * (double(found[i]) - expected[i]);
  }
  CHECK(std::sqrt(off / squares) < 1e-4);
}

ConvertOptions options(const fs::path& source, const fs::path& target, const Sequences& text) {
  ConvertOptions o;
  o.source = source, o.target = target;
  o.recipe.preset = "w4a16-all";
  o.recipe.group = 32;
  o.threads = 2;
  o.max_shard_bytes = 40'000;
  o.piece_bytes = 3000;
  o.device = Device::cpu;
  o.calibration = text;
  o.gptq = true;
  return o;
}

std::map<std::string, std::string> files_of(const fs::path& dir) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(dir))
    if (entry.is_regular_file()) files[fs::relative(entry.path(), dir).string()] = read_file(entry.path(), 1 << 26);
  return files;
}

std::string bytes_of(const HfCheckpoint& checkpoint, const std::string& name) {
  const TensorInfo* info = checkpoint.find(name);
  REQUIRE_MESSAGE(info, name);
  std::string bytes(info->bytes, '\0');
  checkpoint.read(*info, 0, std::as_writable_bytes(std::span(bytes)));
  return bytes;
}

Json report_of(const fs::path& target) {
  return parse_json(read_file(target / "quantization_report.json", 1 << 24), "report");
}

}  // namespace

TEST_CASE("calibrate: layer by layer the logits are the whole model's") {
  TempDir dir;
  lively_source(dir / "source");
  const ModelConfig config = load_model_config(dir / "source");
  const HfCheckpoint checkpoint(dir / "source");
  const CheckpointWeights weights(config, checkpoint);
  const Sequences text = random_sequences({40, 1, 17}, 1);
  LayerRunner runner(config, Device::cpu, 2, text);
  size_t n_seen = 0;
  for (int64_t l = 0; l < 4; ++l) {
    runner.load(l, weights);
    if (l < 3) {
      runner.run(false);  // changes nothing
      runner.run(true);
      continue;
    }
    runner.run_to_logits([&](size_t i, std::span<const float> logits) {
      ExecutorOptions whole;
      whole.dtype = DType::f32;
      whole.cpu_threads = 1;
      OneSequence sequence(config, checkpoint, whole, 64);
      const std::vector<float> expected = sequence.append(text[i]);
      CHECK(std::equal(logits.begin(), logits.end(), expected.begin(), expected.end()));  // to the bit
      ++n_seen;
    });
  }
  CHECK(n_seen == 3);
}

TEST_CASE("calibrate: inputs are what goes into each linear") {
  TempDir dir;
  const Tensors tensors = lively_source(dir / "source");
  const ModelConfig config = load_model_config(dir / "source");
  const HfCheckpoint checkpoint(dir / "source");
  const CheckpointWeights weights(config, checkpoint);
  const Sequences text = random_sequences({21, 34}, 2);
  constexpr size_t kTokens = 55, kHidden = 64, kFfn = 32;
  LayerRunner runner(config, Device::cpu, 2, text);
  std::vector<size_t> rows_of_experts;
  for (int64_t l = 0; l < 4; ++l) {
    CAPTURE(l);
    const auto tensor = [&](const std::string& name) {
      return std::span(tensors.at(cat("language_model.model.layers.", l, ".", name)));
    };
    Recorder inputs;
    runner.load(l, weights);
    runner.run(true, &inputs);
    const auto row = [&](Site site, int64_t expert, size_t t, size_t k) {
      const std::vector<float>& rows = inputs.found.at({site, expert});
      REQUIRE((t + 1) * k <= rows.size());
      return std::span(rows).subspan(t * k, k);
    };
    for (const Site site : {Site::qkv, Site::o, Site::shared_up})
      CHECK(inputs.found.at({site, -1}).size() == kTokens * kHidden);

    if (l == 0) {  // from the embeddings on
      float most = 0;
      size_t t = 0;
      for (const auto& ids : text)
        for (const int32_t id : ids) {
          std::vector<double> x;
          for (size_t i = 0; i < kHidden; ++i)
            x.push_back(double(tensors.at("language_model.model.embed_tokens.weight")[size_t(id) * kHidden + i]));
          check_close(row(Site::qkv, -1, t, kHidden), normed(x, tensor("input_layernorm.weight")));
          const auto sum = product(row(Site::o, -1, t, kHidden), tensor("self_attn.o_proj.weight"), kHidden);
          for (size_t i = 0; i < kHidden; ++i) x[i] += sum[i];
          check_close(row(Site::shared_up, -1, t, kHidden), normed(x, tensor("post_attention_layernorm.weight")));
          for (const double v : product(row(Site::qkv, -1, t, kHidden), tensor("self_attn.v_proj.weight"), 32))
            most = std::max(most, float(std::fabs(v)));
          ++t;
        }
      CHECK(inputs.v == doctest::Approx(most).epsilon(1e-5));
      CHECK(inputs.k <= 4.001f);  // of 16 numbers whose mean square is 1
      CHECK(inputs.k > 1.0f);
    }

    const bool moe = l % 2 == 1;
    const std::string mlp = moe ? "feed_forward.shared_expert." : "feed_forward.";
    const size_t width = moe ? kFfn : 64;
    std::map<int64_t, size_t> seen;  // rows of each expert so far
    for (size_t t = 0; t < kTokens; ++t) {
      const std::span<const float> h = row(Site::shared_up, -1, t, kHidden);
      auto act = product(h, tensor(mlp + "gate_proj.weight"), int64_t(width));
      const auto up = product(h, tensor(mlp + "up_proj.weight"), int64_t(width));
      for (size_t i = 0; i < width; ++i) act[i] = silu(act[i]) * up[i];
      check_close(row(Site::shared_down, -1, t, width), act);
      if (!moe) continue;
      const auto choice = product(h, tensor("feed_forward.router.weight"), 4);
      const int64_t e = std::max_element(choice.begin(), choice.end()) - choice.begin();
      std::vector<double> scaled;
      for (const float x : h) scaled.push_back(double(x) / (1 + std::exp(-choice[size_t(e)])));
      const size_t at = seen[e]++;
      check_close(row(Site::expert_up, e, at, kHidden), scaled);
      const auto gate_up = product(
          row(Site::expert_up, e, at, kHidden),
          tensor("feed_forward.experts.gate_up_proj").subspan(size_t(e) * kHidden * 2 * kFfn, kHidden * 2 * kFfn),
          2 * kFfn, true);
      std::vector<double> expected;
      for (size_t i = 0; i < kFfn; ++i) expected.push_back(silu(gate_up[i]) * gate_up[kFfn + i]);
      check_close(row(Site::expert_down, e, at, kFfn), expected);
    }
    for (int64_t e = 0; e < 4; ++e) CHECK(inputs.found.contains({Site::expert_up, e}) == seen.contains(e));
    for (const auto& [e, n] : seen) CHECK(inputs.found.at({Site::expert_up, e}).size() == n * kHidden);
  }
}

TEST_CASE("calibrate: GPTQ is nearer to the source than rounding, and loads") {
  TempDir dir;
  lively_source(dir / "source");
  const Sequences text = random_sequences({200, 300, 250, 100}, 3), other = random_sequences({100, 60}, 4);
  ConvertOptions o = options(dir / "source", dir / "gptq", text);
  CHECK(convert::convert(o).find("\nGPTQ  ") != std::string::npos);
  ConvertOptions rounded = options(dir / "source", dir / "rtn", {});
  rounded.gptq = false;
  CHECK(convert::convert(rounded).find("GPTQ") == std::string::npos);
  const auto compare = [&](const fs::path& target, const Sequences& sequences) {
    return convert::compare_logits(dir / "source", target, sequences, Device::cpu, 2, {});
  };
  const convert::Comparison gptq = compare(dir / "gptq", text), rtn = compare(dir / "rtn", text);
  CHECK(gptq.n_tokens == 850);
  CHECK(gptq.mean_kl > 0);
  CHECK(gptq.mean_kl < 0.8 * rtn.mean_kl);
  CHECK(gptq.top1 > rtn.top1);
  CHECK(compare(dir / "gptq", other).n_tokens == 160);
  // The same config and tensors; only codes and scales differ.
  CHECK(read_file(dir / "gptq" / "config.json", 1 << 20) == read_file(dir / "rtn" / "config.json", 1 << 20));
  CHECK_FALSE(fs::exists(dir / "gptq" / ".l4-convert"));
  const HfCheckpoint a(dir / "gptq"), b(dir / "rtn");
  CHECK(a.names() == b.names());
  const Json report = report_of(dir / "gptq");
  for (const Json& entry : report.find("tensors")->as_array()) {
    const std::string module = entry.find("module")->as_string();
    CAPTURE(module);
    const int64_t k = entry.find("shape")->as_array()[1].as_integer();
    const bool solved = entry.find("calibration_rows")->as_integer() >= convert::min_calibration_rows(k);
    CHECK(entry.find("method")->as_string() == (solved ? "gptq" : "rtn"));
    CHECK((entry.find("mean_squared_output_error") != nullptr) == solved);
    CHECK((bytes_of(a, module + ".weight_packed") == bytes_of(b, module + ".weight_packed")) == !solved);
  }
}

TEST_CASE("calibrate: experts that saw too little are rounded, and said by name") {
  TempDir dir;
  lively_source(dir / "source");
  ConvertOptions o =
      options(dir / "source", dir / "target", random_sequences({20}, 5));  // 16 rows are enough at k = 64
  const std::string table = convert::convert(o);
  ConvertOptions rounded = options(dir / "source", dir / "rtn", {});
  rounded.gptq = false;
  convert::convert(rounded);
  const HfCheckpoint a(dir / "target"), b(dir / "rtn");
  size_t n_rounded = 0, rows = 0;
  const Json report = report_of(dir / "target");
  for (const Json& entry : report.find("tensors")->as_array()) {
    const std::string module = entry.find("module")->as_string();
    if (module.find(".layers.1.feed_forward.experts.") != std::string::npos && module.ends_with("up_proj"))
      rows += size_t(entry.find("calibration_rows")->as_integer());
    if (entry.find("method")->as_string() == "gptq") continue;
    ++n_rounded;
    CAPTURE(module);
    CHECK(module.find(".experts.") != std::string::npos);
    for (const char* tensor : {".weight_packed", ".weight_scale"})
      CHECK(bytes_of(a, module + tensor) == bytes_of(b, module + tensor));
    CHECK(entry.find("relative_error")->as_number() > 0.01);
    const std::string line = cat("  ", module, " (", entry.find("calibration_rows")->as_integer(), " row");
    if (n_rounded <= 10) CHECK_MESSAGE(table.find(line) != std::string::npos, table);
  }
  CHECK(n_rounded > 3);
  CHECK(n_rounded < 24);
  CHECK(rows == 20);
  CHECK(table.find(cat("for want of inputs in the text: ", n_rounded, "\n")) != std::string::npos);
}

TEST_CASE("calibrate: the same bytes whatever the threads and the memory, and when it is gone on from") {
  TempDir dir;
  lively_source(dir / "source");
  const Sequences text = random_sequences({90, 120}, 6);
  ConvertOptions o = options(dir / "source", dir / "a", text);
  o.recipe.kv_scales = true;
  convert::convert(o);
  const auto expected = files_of(dir / "a");
  o.target = dir / "b", o.threads = 1, o.calibration_bytes = 1;  // one linear's sums at a time
  convert::convert(o);
  CHECK(files_of(dir / "b") == expected);

  o.target = dir / "c";
  size_t n_runs = 0;
  for (bool done = false; !done; ++n_runs) {
    REQUIRE(n_runs < 20);
    int64_t n_layers = 0;
    o.on_calibration = [&](int64_t at, int64_t total) {
      CHECK(total == 4 * 210);
      CHECK(at == ++n_layers * 210);
      if (n_runs < 4 && n_layers == int64_t(n_runs) + 1) throw std::runtime_error("killed");
    };
    try {
      convert::convert(o);
      done = true;
    } catch (const std::runtime_error&) {
      CHECK(fs::exists(dir / "c" / ".l4-convert" / "calibration" / cat("0000", n_runs) / "notes.json"));
      CHECK_FALSE(fs::exists(dir / "c" / "config.json"));
    }
  }
  CHECK(n_runs == 5);
  CHECK(files_of(dir / "c") == expected);

  // Another text, or none, is another conversion.
  o.target = dir / "d";
  o.on_calibration = [](int64_t, int64_t) { throw std::runtime_error("killed"); };
  CHECK_THROWS_AS(convert::convert(o), std::runtime_error);
  ConvertOptions other = o;
  other.calibration[0][3] ^= 1;
  CHECK(error_of([&] { convert::convert(other); }).find("with other options") != std::string::npos);
  other = o;
  other.gptq = false;
  CHECK(error_of([&] { convert::convert(other); }).find("with other options") != std::string::npos);
  other.overwrite = true, other.on_calibration = {};
  convert::convert(other);
  CHECK_FALSE(files_of(dir / "d") == expected);
}

TEST_CASE("calibrate: scales of keys and values") {
  TempDir dir;
  lively_source(dir / "source");
  for (const bool gptq : {false, true}) {
    CAPTURE(gptq);
    const fs::path target = dir / cat("target", gptq);
    ConvertOptions o = options(dir / "source", target, random_sequences({50, 50}, 7));
    o.gptq = gptq;
    o.recipe.preset = "w4a16";
    o.recipe.kv_scales = true;
    CHECK(convert::convert(o).find("\nFP8 cache  largest key ") != std::string::npos);
    // From the model as it was written, as far as calibration quantised it.
    const fs::path model = gptq ? target : dir / "source";
    ModelConfig config = load_model_config(model);
    if (config.quantization)
      config.quantization->set("kv_cache_scheme", Json());  // calibrated before there were scales
    const HfCheckpoint checkpoint(model), result(target);
    const CheckpointWeights weights(config, checkpoint);
    LayerRunner runner(config, Device::cpu, 2, o.calibration);
    const std::vector<KvScales> read = load_kv_scales(result, {0, 4});
    for (int64_t l = 0; l < 4; ++l) {
      Recorder inputs;
      runner.load(l, weights);
      runner.run(true, &inputs);
      CHECK(read[size_t(l)].k == doctest::Approx(inputs.k / 448).epsilon(1e-5));
      CHECK(read[size_t(l)].v == doctest::Approx(inputs.v / 448).epsilon(1e-5));
      for (const auto& [name, most] : {std::pair("k_scale", inputs.k), {"v_scale", inputs.v}}) {
        const std::string tensor = cat("language_model.model.layers.", l, ".self_attn.", name);
        const TensorInfo* info = result.find(tensor);
        REQUIRE(info);
        CHECK(info->dtype == DType::f32);
        CHECK(info->shape == Shape{1});
        float scale;
        result.read(*info, 0, std::as_writable_bytes(std::span(&scale, 1)));
        CHECK(scale == doctest::Approx(most / 448).epsilon(1e-5));
      }
    }
    const Json written = parse_json(read_file(target / "config.json", 1 << 20), "config.json");
    const Json* scheme = written.find("quantization_config")->find("kv_cache_scheme");
    REQUIRE(scheme->is_object());
    CHECK(scheme->find("num_bits")->as_integer() == 8);
    CHECK(scheme->find("type")->as_string() == "float");
    CHECK(scheme->find("strategy")->as_string() == "tensor");
    CHECK_FALSE(scheme->find("dynamic")->as_bool());
    CHECK(read_checkpoint_index(target).total_bytes == result.total_bytes());
    // Compared as it will run, with that cache.
    const auto kl = [&] {
      return convert::compare_logits(dir / "source", target, o.calibration, Device::cpu, 1, {}).mean_kl;
    };
    const double with_fp8_cache = kl();
    CHECK(with_fp8_cache < 1);
    Json plain = written;
    Json quantization = *written.find("quantization_config");
    quantization.set("kv_cache_scheme", Json());
    plain.set("quantization_config", std::move(quantization));
    write_file_atomic(target / "config.json", dump_json(plain));
    CHECK(kl() != with_fp8_cache);
  }
}

TEST_CASE("calibrate: text-only names") {
  TempDir dir;
  write_tiny_source(dir / "source", DType::bf16, true);
  ConvertOptions o = options(dir / "source", dir / "target", random_sequences({60, 40}, 9));
  o.recipe.kv_scales = true;
  convert::convert(o);
  const HfCheckpoint target(dir / "target");
  const TensorInfo* scale = target.find("language_model.model.layers.3.self_attn.v_scale");
  REQUIRE(scale);
  CHECK(scale->name == "model.layers.3.self_attn.v_scale");
  const auto compare = [&](const char* model) {
    return convert::compare_logits(dir / "source", dir / model, o.calibration, Device::cpu, 2, {}).mean_kl;
  };
  o.target = dir / "rtn", o.gptq = false;
  convert::convert(o);
  CHECK(compare("target") < compare("rtn"));
}

TEST_CASE("verify: numbers of two known models, results that do not load") {
  TempDir dir;
  lively_source(dir / "source");
  const Sequences text = random_sequences({30, 20}, 8);
  const auto compare = [&](const fs::path& target) {
    return convert::compare_logits(dir / "source", target, text, Device::cpu, 2, {});
  };
  const convert::Comparison same = compare(dir / "source");
  CHECK(same.mean_kl == 0);
  CHECK(same.top1 == 1);
  CHECK(same.largest_difference == 0);
  CHECK(same.source_perplexity == same.target_perplexity);

  // A head of zeros: every token as likely. KL is then log V less the entropy of the source.
  const auto head = [](float factor) {
    return [factor](const std::string& name, std::vector<float>& values) {
      if (name.ends_with("lm_head.weight"))
        for (float& w : values) w *= factor;
    };
  };
  write_tiny_source(dir / "plain", DType::bf16, false, head(1));
  write_tiny_source(dir / "flat", DType::bf16, false, head(0));
  const convert::Comparison flat = convert::compare_logits(dir / "plain", dir / "flat", text, Device::cpu, 2, {});
  CHECK(flat.target_perplexity == doctest::Approx(300));
  CHECK(flat.mean_kl > 0);
  CHECK(flat.top1 < 0.2);

  ConvertOptions o = options(dir / "source", dir / "target", {});
  o.gptq = false;
  convert::convert(o);
  const std::string found = convert::verify(o, text, 10.0, {});
  CHECK(found.find("KL divergence       mean ") != std::string::npos);
  const Json report = report_of(dir / "target");
  CHECK(report.find("verification")->find("tokens")->as_integer() == 50);
  CHECK(report.find("verification")->find("mean_kl")->as_number() > 0);
  CHECK(error_of([&] { convert::verify(o, text, 1e-9, {}); }).find("above --max-kl") != std::string::npos);
  fs::remove(dir / "target" / "model-00002-of-00005.safetensors");
  for (const auto& entry : fs::directory_iterator(dir / "target"))
    if (entry.path().filename().string().starts_with("model-00002-")) fs::remove(entry.path());
  CHECK(error_of([&] { convert::verify(o, text, {}, {}); }).find("weight files are missing") != std::string::npos);
}
