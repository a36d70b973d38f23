#include "l4/load_plan.h"

#include "model/tensor_names.h"
#include "support/test.h"

using namespace l4;
using namespace l4::test;

namespace {

constexpr int64_t kGlobalBytes = 49152, kChunkedBytes = 147456;  // of a token's KV in bf16, llama4-spec 7

StoredDType bf16() {
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
  for (int64_t context : {1 << 17, 1 << 20, 5'000'064}) {
    // The global layers keep everything, the chunked ones a chunk and a step.
    const uint64_t kv = uint64_t(context * kGlobalBytes + 2 * 8192 * kChunkedBytes) / 8;
    CHECK(context_that_fits(options, config, 17, bf16(), {fixed + kv, true}, 10'485'760) == context);
    CHECK(context_that_fits(options, config, 17, bf16(), {fixed + kv - 1, true}, 10'485'760) == context - 128);
    CHECK(context_that_fits(options, config, 17, bf16(), {fixed + kv, true}, 100) == 100);
  }
  CHECK(context_that_fits(options, config, 17, bf16(), {idle, true}, 10'485'760) == 0);
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
