// Rows of decode steps, padded: on GPUs a step is recorded for its number of rows (kernels/cuda/graph.h), and a
// server's numbers are all there are. So they are rounded up to a few.
#pragma once

#include <cstdint>

#include "ops/step_plan.h"

namespace l4 {

// The number of rows that a decode step of n is padded to, at least n: up to 4 every number, then 6, 8, 12, 16, ... 64,
// and multiples of 32. Kernels change at 1, 8 and 16 rows, which are among them. n itself where the next one is above
// `most`.
int64_t padded_decode_rows(int64_t n, int64_t most);

// Appends nobody's rows to a step of one new row of each sequence, all with an output; another is left as it is. Such a
// row is at position -1: nothing of it is written to the KV cache, it sees one key, goes to no expert, and its logits
// are at the end.
void pad_decode_step(StepPlan& step, int64_t most);

}  // namespace l4
