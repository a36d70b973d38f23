#include "engine/decode_rows.h"

#include "base/error.h"

namespace l4 {

int64_t padded_decode_rows(int64_t n, int64_t most) {
  L4_CHECK(n >= 1);
  constexpr int64_t kFew[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64}, kStep = 32;
  int64_t rows = (n + kStep - 1) / kStep * kStep;
  for (const int64_t few : kFew)
    if (few >= n) {
      rows = few;
      break;
    }
  return rows <= most ? rows : n;
}

void pad_decode_step(StepPlan& step, int64_t most) {
  if (!StepShape(step).is_decode() || step.n_out() != step.n_rows()) return;
  const int64_t n = step.n_rows(), padded = padded_decode_rows(n, most);
  for (int64_t row = n; row < padded; ++row) {
    step.ids.push_back(0);
    step.positions.push_back(-1);
    for (KvPlan& kv : step.kv) kv.spans.push_back({int32_t(row), 1, 0, 0});  // any page that is there
    step.out_rows.push_back(int32_t(row));
  }
}

}  // namespace l4
