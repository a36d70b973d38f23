#include "l4/load_plan.h"

#include "model/tensor_names.h"
#include "support/test.h"

using namespace l4;
using namespace l4::test;

namespace {

constexpr int64_t kGlobalBytes = 49152, kChunkedBytes = 147456;  // of a token's KV in bf16, llama4-spec 7

StoredWeights bf16() {
  return [](const std::string&) { return DType::bf16; };
}

ModelConfig scout() {
  return load_model_config(shared_data("config/meta-llama--Llama-4-Scout-17B-16E-Instruct"));
}

}  // namespace

TEST_CASE("load_plan: Scout's weights are its parameters, two bytes each, however they are split") {
  const ModelConfig config = scout();
  const uint64_t parameters = uint64_t(parameter_count(expected_tensors(config)));
  LoadPlan one = plan_load({.max_context = 8192}, config, 17, bf16(), std::nullopt);
  CHECK(one.ranks.size() == 1);
  CHECK(one.ranks[0].weight_bytes == 2 * parameters);
  // Tensor parallel: the vision tower, norms and routers are on every rank.
  LoadPlan eight = plan_load({.max_context = 8192, .topology = {8, 1, 1}}, config, 17, bf16(), std::nullopt);
  uint64_t sum = 0;
  for (const MemoryPlan& rank : eight.ranks) sum += rank.weight_bytes;
  CHECK(sum > 2 * parameters);
  CHECK(sum < 2 * parameters + (uint64_t(14) << 30));
}

TEST_CASE("load_plan: the context that fits is what the KV cache's arithmetic says") {
  const ModelConfig config = scout();
  LoadOptions options{.batch_tokens = 8192, .topology = {8, 1, 1}};
  options.max_context = 8192;
  const LoadPlan small = plan_load(options, config, 17, bf16(), std::nullopt);
  const uint64_t idle = small.ranks[0].weight_bytes + small.ranks[0].encoder_bytes;
  const uint64_t fixed = idle + small.ranks[0].activation_bytes;  // with steps of 8192 rows
  for (int64_t context : {3 << 17, 3 << 20, 5'000'064}) {         // whole blocks of three pages
    // The global layers keep everything, the chunked ones a chunk and a step.
    const uint64_t kv = uint64_t(context * kGlobalBytes + 2 * 8192 * kChunkedBytes) / 8;
    CHECK(context_that_fits(options, config, 17, bf16(), {fixed + kv, true}, 10'485'760) == context);
    CHECK(context_that_fits(options, config, 17, bf16(), {fixed + kv - 1, true}, 10'485'760) == context - 384);
    CHECK(context_that_fits(options, config, 17, bf16(), {fixed + kv, true}, 100) == 100);
  }
  CHECK(context_that_fits(options, config, 17, bf16(), {idle, true}, 10'485'760) == 0);
}

TEST_CASE("load_plan: an FP8 cache is half of the memory and 1.6 % of it for scales, on GPUs too") {
  const ModelConfig config = scout();
  LoadOptions options{.max_context = 1 << 20};
  const LoadPlan plain = plan_load(options, config, 17, bf16(), std::nullopt);
  options.kv_dtype = DType::bf16;
  CHECK(plan_load(options, config, 17, bf16(), std::nullopt).ranks[0].kv_bytes == plain.ranks[0].kv_bytes);
  options.kv_dtype = DType::f8_e4m3;
  const LoadPlan fp8 = plan_load(options, config, 17, bf16(), std::nullopt);
  CHECK(fp8.ranks[0].kv_bytes == plain.ranks[0].kv_bytes / 256 * 130);
  CHECK(fp8.ranks[0].weight_bytes == plain.ranks[0].weight_bytes);
  CHECK(fp8.ranks[0].activation_bytes == plain.ranks[0].activation_bytes);
  if (list_cuda_devices().built) {
    LoadOptions on_gpu = options;
    on_gpu.gpus = {0};
    const LoadPlan gpu = plan_load(on_gpu, config, 17, bf16(), std::nullopt);
    on_gpu.kv_dtype = DType::bf16;
    const LoadPlan gpu_plain = plan_load(on_gpu, config, 17, bf16(), std::nullopt);
    CHECK(gpu.ranks[0].kv_bytes == gpu_plain.ranks[0].kv_bytes / 256 * 130);
    CHECK(gpu.ranks[0].activation_bytes == gpu_plain.ranks[0].activation_bytes);
  }
  options.kv_dtype = DType::f32;
  CHECK(error_of([&] { plan_load(options, config, 17, bf16(), std::nullopt); }) ==
        "KV cache dtype must be bf16 or fp8");
}

TEST_CASE("load_plan: what does not fit is refused with what would") {
  const ModelConfig config = scout();
  const uint64_t weights = plan_load({.max_context = 1}, config, 0, bf16(), std::nullopt).needed_bytes();
  CHECK(error_of([&] { plan_load({}, config, 17, bf16(), uint64_t(16) << 30); }).find("the weights need 202.") !=
        std::string::npos);
  const std::string error =
      error_of([&] { plan_load({.max_context = 1'000'000}, config, 17, bf16(), weights + (uint64_t(10) << 30)); });
  CHECK(error.find("a context of 1000000 tokens needs ") != std::string::npos);
  CHECK(error.find(" tokens would fit") != std::string::npos);
  // Left open, the context takes half of what the weights leave.
  const LoadPlan open = plan_load({}, config, 17, bf16(), weights + (uint64_t(20) << 30));
  CHECK(open.needed_bytes() <= weights + (uint64_t(10) << 30) + (uint64_t(64) << 20));  // and the image features
  CHECK(open.limits.max_context > 100'000);
  CHECK(error_of([&] {
          plan_load({.max_context = 10'485'761}, config, 17, bf16(), std::nullopt);
        }).find("a context of 10485761 tokens is longer than the 10485760 of ") == 0);
  CHECK(error_of([&] { plan_load({.threads = 4096}, config, 17, bf16(), std::nullopt); }) ==
        "threads must be at most 1024, not 4096");
}

TEST_CASE("load_plan: GPUs are taken where they are, in order, as many as there are ranks") {
  CudaDevices none{
      .built = true, .driver_version = 0, .runtime_version = 13000, .problem = "no NVIDIA driver", .devices = {}};
  CudaDevices two = none;
  two.devices = {{0, "A100", 1, 8, 0, 108}, {1, "H100", 1, 9, 0, 132}, {2, "H200", 1, 9, 0, 132}};
  using Gpus = std::vector<int>;
  CHECK(choose_gpus({}, none) == Gpus{});
  CHECK(choose_gpus({}, two) == Gpus{1});
  CHECK(choose_gpus({.device = Device::cpu}, two) == Gpus{});
  CHECK(choose_gpus({.device = Device::cuda, .topology = {2, 1, 1}}, two) == Gpus{1, 2});
  CHECK(choose_gpus({.gpus = {2}}, two) == Gpus{2});
  CHECK(error_of([&] { choose_gpus({.device = Device::cuda}, none); }) == "--device cuda: no NVIDIA driver");
  CHECK(error_of([&] {
          choose_gpus({.topology = {4, 1, 1}}, two);
        }) == "4 ranks (-tp, -pp) need as many GPUs, 2 are there; --device cpu runs them on the CPU");
  two.devices.resize(1);
  CHECK(error_of([&] { choose_gpus({.device = Device::cuda}, two); }) ==
        "--device cuda: A100 has compute capability 8.0, 9.0 (H100, H200) is needed");
  CHECK(choose_gpus({}, two) == Gpus{});
  none.built = false;
  CHECK(error_of([&] { choose_gpus({.device = Device::cuda}, none); }) ==
        "--device cuda: this build has no CUDA backend");
}

TEST_CASE("load_plan: on GPUs every rank has its own memory, and steps are larger") {
  if (!list_cuda_devices().built) L4_SKIP("a build with CUDA");
  const ModelConfig config = scout();
  const LoadOptions options{.gpus = {0, 1, 2, 3}, .topology = {4, 1, 1}};
  const uint64_t h100 = uint64_t(80) << 30;
  const LoadPlan plan = plan_load(options, config, 17, bf16(), h100);
  CHECK(plan.limits.max_step_rows == 8192);
  CHECK(plan.needed_bytes() <= h100);
  CHECK(plan.needed_bytes() > h100 / 10 * 9);  // the context takes nearly all there is
  CHECK(plan.ranks[0].runtime_bytes > 0);
  CHECK(plan.ranks[0].activation_bytes > uint64_t(8192) * 5120 * 2);
  LoadOptions one = options;
  one.gpus = {0}, one.topology = {};
  CHECK(error_of([&] {
          plan_load(one, config, 17, bf16(), h100);
        }).find(" of each GPU's memory, 80.00 GiB is free (-tp N") != std::string::npos);
}

TEST_CASE(
    "load_plan: Scout's pages are one slab, a chunked page is three global ones, and one chat needs one sequence") {
  const ModelConfig config = scout();
  for (Topology topology : {Topology{1, 1, 1}, Topology{8, 1, 1}, Topology{2, 4, 1}}) {
    const LoadPlan plan = plan_load({.max_context = 1 << 20, .topology = topology}, config, 17, bf16(), std::nullopt);
    CHECK(plan.limits.kv_block_pages == 3);
    CHECK(plan.executor.kv_one_slab);
    uint64_t bytes = 0;
    for (const MemoryPlan& rank : plan.ranks) bytes += rank.kv_bytes;
    const uint64_t formula = uint64_t((1 << 20) * kGlobalBytes + (8192 + 512) * kChunkedBytes);
    CHECK(bytes >= formula);
    CHECK(bytes < formula + 3 * 128 * kGlobalBytes);
    CHECK(plan.limits.max_sequences == 16);
  }
  // Stages of 5 layers: 4 + 1, 3 + 2, ...: each kind has its own memory.
  CHECK(kv_block_pages(config, Topology{1, 10, 1}) == 0);
}

TEST_CASE("load_plan: what the engine is asked for is looked at") {
  const ModelConfig config = scout();
  auto error = [&](const LoadOptions& options) {
    return error_of([&] { plan_load(options, config, 17, bf16(), std::nullopt); });
  };
  CHECK(error({.max_num_seqs = -1}) == "sequences must be 0 (chosen for you) or more, not -1");
  CHECK(error({.ngram_speculation = -2}) == "drafts must be 0 (chosen for you) or more, not -2");
  CHECK(error({.step_limit_s = -1}) == "a step's time limit must be 0 (none) or more seconds");
}

TEST_CASE("load_plan: batch-invariant GPUs encode tiles one at a time; the CPU need not") {
  const ModelConfig config = scout();
  auto tiles = [&](const LoadOptions& options) {
    const LoadPlan plan = plan_load(options, config, 17, bf16(), std::nullopt);
    CHECK(plan.executor.max_step_tiles == plan.limits.max_step_tiles);
    return plan.executor.max_step_tiles;
  };
  CHECK(tiles({.gpus = {0}, .max_context = 1024, .batch_invariant = true}) == 1);
  CHECK(tiles({.gpus = {0}, .max_context = 1024}) > 1);
  CHECK(tiles({.max_context = 1024, .batch_invariant = true}) > 1);
}

TEST_CASE("load_plan: a server's pages take what fits, up to what all of its sequences could need") {
  const ModelConfig config = scout();
  LoadOptions options{.max_context = 1 << 17, .max_num_seqs = 8};
  const uint64_t weights = plan_load({.max_context = 1}, config, 0, bf16(), std::nullopt).needed_bytes();
  const uint64_t free_bytes = weights + (uint64_t(64) << 30);
  const LoadPlan one = plan_load(options, config, 17, bf16(), free_bytes);
  CHECK(sequences_that_fit(one.limits, 128, 1 << 17) == 1);
  CHECK(sequences_that_fit(one.limits, 128, 8192) == 4);  // 410 blocks
  options.kv_fills_memory = true;
  const LoadPlan full = plan_load(options, config, 17, bf16(), free_bytes);
  CHECK(full.needed_bytes() <= weights + (uint64_t(33) << 30));
  CHECK(full.needed_bytes() > weights + (uint64_t(31) << 30));
  CHECK(sequences_that_fit(full.limits, 128, 1 << 17) == 4);  // of 7.6 GB each
  const LoadPlan all = plan_load(options, config, 17, bf16(), weights + (uint64_t(1) << 40));
  CHECK(sequences_that_fit(all.limits, 128, 1 << 17) == 8);
  CHECK(sequences_that_fit(all.limits, 128, 100) == 8);  // max_num_seqs
  CHECK(all.ranks[0].kv_bytes < 9 * one.ranks[0].kv_bytes);
}
