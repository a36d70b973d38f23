#include "kernels/cuda/gpu_testing.h"

using namespace l4;
using namespace l4::test;

TEST_CASE("cuda embed: rows of this rank's tokens, zeros for others', image rows last, bit for bit") {
  ThreadPool pool(1);
  GpuMachine gpu;
  for (int64_t d : {1, 12, 64, 5120})
    for (DType a : {DType::f32, DType::bf16}) {
      INFO(cat(d, " ", dtype_name(a)));
      Numbers numbers{uint64_t(d)};
      Values table = numbers.tensor(a, {10, d}), features = numbers.tensor(a, {4, d}), x(a, {7, d});
      StepPlan step;
      step.ids = {100, 109, 99, 110, 104, 104, 0};
      step.positions.assign(7, 0);
      for (KvPlan& kv : step.kv) kv.spans = {{0, 7, 0, 0}}, kv.pages = {0};
      const View gtable = gpu.upload(table), gfeatures = gpu.upload(features), gx = gpu.upload(x);
      EmbedArgs args{&step, table, 100, features, x, nullptr, nullptr};
      EmbedArgs gpu_args{&step, gtable, 100, gfeatures, gx, nullptr, nullptr};
      for (int images = 0; images < 2; ++images) {
        if (images) step.image_rows = {{1, 3}, {2, 0}, {6, 3}};
        gpu.begin_step(step, 8);
        cpu::embed_tokens(pool, args);
        cpu::place_features(pool, args);
        gpu.run([&](const cuda::OpContext& ctx) {
          cuda::embed_tokens(ctx, gpu_args);
          cuda::place_features(ctx, gpu_args);
        });
        CHECK(same_bits(gpu.download(gx), x));
      }
    }
}
