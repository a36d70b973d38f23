// The engine on GPUs: whole golden models through the Executor, recorded steps, two ranks, the step's plan, loading.
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/op_testing.h"
#include "kernels/cuda/copy_pages.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/gpu_testing.h"
#include "model/config.h"
#include "model/synthetic.h"
#include "support/golden_model.h"
#include "support/one_sequence.h"
#include "support/test.h"

using namespace l4;
using namespace l4::test;

namespace {

constexpr double kFp32 = 2e-5;  // as tests/core/model/test_forward.cpp

struct Case {
  explicit Case(const std::string& name)
      : golden(name), dir(golden.checkpoint(scratch.path())), config(load_model_config(dir)), checkpoint(dir) {}

  std::unique_ptr<OneSequence> model(DType dtype, std::vector<int> gpus, bool graphs = true) const {
    ExecutorOptions options;
    options.topology.tp = std::max(1, int(gpus.size()));
    options.dtype = dtype;
    options.cpu_threads = 2;
    options.gpus = std::move(gpus);
    options.cuda_graphs = graphs;
    auto m = std::make_unique<OneSequence>(config, checkpoint, options, int64_t(golden.prompt.size()) + 41);
    if (!golden.images.empty()) m->encode(golden.pixel_values(), golden.pixel_shape[0], 3);
    return m;
  }

  GoldenModel golden;
  TempDir scratch;
  std::filesystem::path dir;
  ModelConfig config;
  HfCheckpoint checkpoint;
};

// The prompt in parts of `part`, then one token at a time from `decode_from` on: logits of all rows.
std::vector<float> run(OneSequence& m, std::span<const int32_t> ids, size_t part, size_t decode_from) {
  std::vector<float> all;
  for (size_t i = 0; i < ids.size();) {
    const size_t n = i < decode_from ? std::min(part, decode_from - i) : 1;
    const std::vector<float> some = m.append(ids.subspan(i, n));
    all.insert(all.end(), some.begin(), some.end());
    i += n;
  }
  return all;
}

bool splits(const Case& c) {
  return c.config.text.n_kv_heads % 2 == 0 && c.config.text.vocab % 2 == 0 && c.config.text.ffn % 2 == 0;
}

}  // namespace

TEST_CASE("cuda runtime: fp32 logits of every golden model are transformers', prompts in parts and decode steps") {
  skip_without_gpu();
  for (const std::string& name : GoldenModel::names()) {
    CAPTURE(name);
    Case c(name);
    auto m = c.model(DType::f32, {0});
    const std::vector<float> logits = run(*m, c.golden.prompt, 37, c.golden.prompt.size() - 6);
    CHECK(c.golden.logits_difference(logits, kFp32) == "");
  }
}

TEST_CASE("cuda runtime: bf16 stays as near to the CPU's bf16 as bf16 is to fp32") {
  skip_without_gpu();
  for (const std::string& name : GoldenModel::names()) {
    CAPTURE(name);
    Case c(name);
    if (c.golden.bf16_logits.values.empty()) continue;
    const std::vector<float> want = run(*c.model(DType::bf16, {}), c.golden.prompt, 40, c.golden.prompt.size());
    const std::vector<float> got = run(*c.model(DType::bf16, {0}), c.golden.prompt, 40, c.golden.prompt.size());
    // Token by token: a near tie of the router's that goes the other way changes a token for good reason, and others a
    // little through attention. (Tensor cores and the CPU add in different orders: one such token of "wide" was seen.)
    const size_t vocab = size_t(c.config.text.vocab), n = got.size() / vocab;
    std::vector<double> distances;
    for (size_t t = 0; t < n; ++t)
      distances.push_back(relative_distance(std::span(got).subspan(t * vocab, vocab), std::span(want).subspan(t * vocab, vocab)));
    std::sort(distances.begin(), distances.end());
    CHECK(distances[n / 2] < 1.5 * c.golden.bf16_distance);
    CHECK(distances[n * 9 / 10] < 4 * c.golden.bf16_distance);
  }
}

TEST_CASE("cuda runtime: a recorded step gives the bits of the same step issued anew") {
  skip_without_gpu();
  for (const char* name : {"scout", "odd_numbers"}) {
    CAPTURE(name);
    Case c(name);
    for (DType dtype : {DType::f32, DType::bf16}) {
      const std::span<const int32_t> ids = std::span(c.golden.prompt).first(45);  // 20 steps, over chunk and page edges
      CHECK(run(*c.model(dtype, {0}, true), ids, 25, 25) == run(*c.model(dtype, {0}, false), ids, 25, 25));
    }
  }
}

TEST_CASE("cuda runtime: two GPUs give what one gives, recorded or not") {
  skip_without_gpu(2);
  for (const char* name : {"scout", "top2", "attention_bias"}) {
    CAPTURE(name);
    Case c(name);
    REQUIRE(splits(c));
    const std::span<const int32_t> ids = c.golden.prompt;
    const size_t decode_from = ids.size() - 6;
    const std::vector<float> fp32 = run(*c.model(DType::f32, {0, 1}), ids, 37, decode_from);
    CHECK(c.golden.logits_difference(fp32, kFp32) == "");
    const std::vector<float> recorded = run(*c.model(DType::bf16, {0, 1}), ids, 37, decode_from);
    const std::vector<float> anew = run(*c.model(DType::bf16, {0, 1}, false), ids, 37, decode_from);
    CHECK(recorded == anew);
    if (!c.golden.bf16_logits.values.empty())
      CHECK(relative_distance(recorded, run(*c.model(DType::bf16, {0}), ids, 37, decode_from)) < 1.5 * c.golden.bf16_distance);
  }
}

TEST_CASE("cuda runtime: where speed is asked for, a model that only generic kernels serve is refused by name") {
  Case c("scout");  // heads of 16
  ExecutorOptions options;
  options.gpus = {0};
  options.max_step_rows = options.max_out_rows = 1;
  options.kv_pages[0] = options.kv_pages[1] = 1;
  options.fast_kernels_only = true;
  const std::string message =
      error_of([&] { plan_memory(c.config, options, 0, [](const std::string&) { return DType::bf16; }); });
  CHECK(message.find(c.config.source + ": ") == 0);
  CHECK(message.find(" of 1 row runs on the generic path") != std::string::npos);

  options.max_step_rows = 8192;
  options.max_out_rows = 256;
  for (const char* name : {"scout", "maverick"})
    for (const int ranks : {1, 2, 4, 8}) {
      CAPTURE(name);
      CAPTURE(ranks);
      options.topology.tp = ranks;
      options.gpus.assign(size_t(ranks), 0);
      const ModelConfig config = synthetic_config(name);
      CHECK(plan_memory(config, options, 0, [](const std::string&) { return DType::bf16; }).activation_bytes > 0);
    }
}

TEST_CASE("cuda runtime: a model that does not fit a GPU is refused with what it needs") {
  skip_without_gpu();
  Case c("scout");
  ExecutorOptions options;
  options.gpus = {0};
  options.max_step_rows = options.max_out_rows = 1;
  options.kv_pages[0] = options.kv_pages[1] = int64_t(1) << 28;
  const std::string message = error_of([&] { Executor(c.config, c.checkpoint, options); });
  CHECK(message.find(" of GPU 0's memory (weights ") != std::string::npos);
  CHECK(message.find(" is free") != std::string::npos);
}

TEST_CASE("cuda runtime: a shard that gets shorter while it is loaded is one clear line") {
  skip_without_gpu();
  Case c("scout");
  const TensorInfo* last = c.checkpoint.find(c.checkpoint.names().back());
  const fs::path shard = c.checkpoint.shard(*last).path();
  const uint64_t bytes = fs::file_size(shard);
  auto backend = make_cuda_backend(0, {});
  const View from = c.checkpoint.data(*last);  // looks at the size, which is still whole
  const Buffer to = backend->allocate(from.bytes(), "a test");
  fs::resize_file(shard, bytes - 1);
  const std::string message = error_of([&] {
    backend->load({to.data(), from.dtype, from.shape}, from.data, c.checkpoint.shard(*last).file());
    backend->finish_loading();
  });
  CHECK(message.find(cat(shard.string(), ": ends at byte ", bytes - 1)) == 0);
}

TEST_CASE("cuda runtime: weights of many pieces arrive as weights packed at once") {
  skip_without_gpu();
  // [E, k, n] fused experts, of which a rank takes columns (runs), and a plain [n, k] of which it takes columns, too:
  // slices of 16 MB pieces and a rest.
  constexpr int64_t kExperts = 4, kK = 1500, kN = 4200;
  TempDir dir;
  std::vector<BFloat16> values(size_t(kExperts * kK * kN));
  for (size_t i = 0; i < values.size(); ++i) values[i] = {uint16_t(i * 40503u >> 3)};
  {
    SafetensorsWriter out(dir / "model.safetensors", {{"w", DType::bf16, {kExperts, kK, kN}}});
    out.write(std::as_bytes(std::span(values)));
    out.finish();
  }
  const SafetensorsFile file(dir / "model.safetensors");
  const View w = file.data(*file.find("w"));
  auto slices_of = [&](bool fused, const BFloat16* data, const MappedFile* mapped) {
    std::vector<WeightSlice> slices;
    WeightSlice s{.data = data};
    s.file = mapped;
    if (!fused) {  // as one [E * k, n]: the right half of its columns
      s.data = data + kN / 2;
      s.n = kExperts * kK, s.k = kN / 2, s.n_stride = kN, s.k_stride = 1;
      return std::vector{s};
    }
    for (int64_t e = 0; e < kExperts; ++e)
      for (int64_t side : {0, 1}) {  // gate and up, each its second part
        s.data = data + e * kK * kN + side * kN / 2 + kN / 4;
        s.n = kN / 4, s.k = kK, s.n_stride = 1, s.k_stride = kN, s.expert = e, s.n_offset = side * kN / 4;
        slices.push_back(s);
      }
    return slices;
  };
  auto backend = make_cuda_backend(0, {});
  for (bool fused : {false, true}) {
    CAPTURE(fused);
    LinearSpec spec{"w",
                    fused ? kN / 2 : kExperts * kK,
                    fused ? kK : kN / 2,
                    fused ? kExperts : 1,
                    fused,
                    false,
                    WeightFormat::bf16};
    const PackedWeight streamed =
        backend->pack(spec, slices_of(fused, static_cast<const BFloat16*>(w.data), &file.file()), {});
    backend->finish_loading();
    const PackedWeight at_once = backend->pack(spec, slices_of(fused, values.data(), nullptr), {});
    auto bytes = [&](const PackedWeight& p) {
      std::vector<std::byte> out(p.data.bytes());
      backend->download(out.data(), {p.data.data(), DType::u8, {int64_t(out.size())}});
      return out;
    };
    CHECK(bytes(streamed) == bytes(at_once));
  }
}

TEST_CASE("cuda runtime: the step's plan lies where its numbers say, slots and tables as the spans mean them") {
  StepPlan plan;
  plan.ids = {5, 6, 7};
  plan.positions = {9, 10, 3};
  plan.out_rows = {1, 2};
  plan.kv[0] = {{{0, 1, 1, 0}, {1, 1, 0, 1}, {2, 1, 3, 2}}, {7, 4, 9}};
  plan.kv[1] = {{{0, 2, 9, 0}, {2, 1, 3, 3}}, {0, 1, 2, 3}};
  const CudaOptions options{.max_rows = 4, .max_out_rows = 2, .max_table_pages = 7, .page_tokens = 4};
  std::vector<std::byte> host(cuda::step_bytes_limit(options));
  cuda::DeviceStep step;
  CHECK(cuda::write_step(plan, 4, host.data(), host.data(), step) <= host.size());
  CHECK(step.n_rows == 3);
  CHECK(step.n_out == 2);
  CHECK(step.ids[2] == 7);
  CHECK(step.positions[1] == 10);
  CHECK(step.out_rows[1] == 2);
  CHECK(step.kv[0].max_rows == 1);
  CHECK(step.kv[1].max_rows == 2);
  CHECK(step.kv[1].n_spans == 2);
  const int32_t chunked[] = {7 * 4 + 1, 4 * 4 + 0, 9 * 4 + 3}, global[] = {2 * 4 + 1, 2 * 4 + 2, 3 * 4 + 3};
  for (int row = 0; row < 3; ++row) {
    CHECK(step.kv[0].slots[row] == chunked[row]);
    CHECK(step.kv[1].slots[row] == global[row]);
  }
  for (int kind = 0; kind < kNumAttentionKinds; ++kind)
    for (size_t i = 0; i < plan.kv[kind].spans.size(); ++i) {
      const KvSpan& got = step.kv[kind].spans[i];
      CHECK(got.past == plan.kv[kind].spans[i].past);
      CHECK(step.kv[kind].pages[got.table] == plan.kv[kind].pages[size_t(plan.kv[kind].spans[i].table)]);
    }
  // Where things lie depends on the numbers of rows and outputs alone, not on how long the sequences are.
  StepPlan longer = plan;
  longer.kv[0].pages.insert(longer.kv[0].pages.begin(), 3);
  for (KvSpan& span : longer.kv[0].spans) ++span.table;
  cuda::DeviceStep other;
  cuda::write_step(longer, 4, host.data(), host.data(), other);
  CHECK(other.kv[1].slots == step.kv[1].slots);
  CHECK(other.kv[0].pages == step.kv[0].pages);
  CHECK(other.kv[1].pages == step.kv[1].pages);
}

TEST_CASE("cuda runtime: pages are copied whole, more of them than one launch takes") {
  GpuMachine gpu;
  constexpr int64_t kPages = 300, kLayers = 3, kLayerBytes = 256 * 5;
  Numbers numbers(3);
  Values pages(DType::i32, {kPages, kLayers, kLayerBytes / 4});
  for (int64_t i = 0; i < pages.view.elements(); ++i) pages.set(i, double(numbers.below(1 << 20)));
  const View device = gpu.upload(pages);
  KvLayer layer;
  layer.layout.layer_bytes = kLayerBytes;
  layer.base = device.data;
  layer.page_stride = kLayers * kLayerBytes;
  std::vector<PageCopy> copies{{AttentionKind::chunked, 0, 1}};
  for (int32_t i = 0; i < 140; ++i) copies.push_back({AttentionKind::global, i, 299 - i});
  cuda::copy_pages(gpu.gpu.stream, layer, kLayers, copies);
  const Values got = gpu.download(device);
  for (int64_t page = 0; page < kPages; ++page) {
    const int64_t from = page >= 160 ? 299 - page : page;
    CHECK(same_bits(got.view.slice(page, 1), pages.view.slice(from, 1)));
  }
}
