#include "kernels/cpu/op_testing.h"

using namespace l4;
using namespace l4::test;

TEST_CASE("cpu embed: rows of the table, zero for other ranks' tokens, image rows last") {
  ThreadPool pool(2);
  for (DType a : {DType::f32, DType::bf16}) {
    Numbers numbers(1);
    const int64_t d = 9;
    Values table = numbers.tensor(a, {5, d}), features = numbers.tensor(a, {4, d}), x(a, {6, d});
    StepPlan step;
    step.ids = {10, 14, 9, 15, 12, 10};  // 10 .. 14 live here
    step.image_rows = {{1, 3}, {2, 0}};
    EmbedArgs args{&step, table, 10, features, x, nullptr, nullptr};
    cpu::embed_tokens(pool, args);
    for (int64_t t = 0; t < 6; ++t) {
      const int64_t id = step.ids[size_t(t)] - 10;
      for (int64_t i = 0; i < d; ++i) CHECK(x.at(t * d + i) == (id >= 0 && id < 5 ? table.at(id * d + i) : 0.0));
    }
    Values before = x;
    cpu::place_features(pool, args);
    for (int64_t t = 0; t < 6; ++t) {
      if (t == 1)
        CHECK(same_bits(x.view.slice(1, 1), features.view.slice(3, 1)));
      else if (t == 2)
        CHECK(same_bits(x.view.slice(2, 1), features.view.slice(0, 1)));
      else
        CHECK(same_bits(x.view.slice(t, 1), before.view.slice(t, 1)));
    }
    step.image_rows = {{0, 4}};
    CHECK(error_of([&] { cpu::place_features(pool, args); }).find("feature < args.features.rows()") !=
          std::string::npos);
    step.image_rows.clear();  // text only: no encoder cache need exist
    args.features = {};
    cpu::place_features(pool, args);
  }
}
