// From sequences with reserved rows to the plan of one step. Pure: reads the sequences, changes nothing.
#pragma once

#include <span>

#include "engine/sequence.h"
#include "ops/step_plan.h"

namespace l4 {

enum class OutRows : uint8_t { none, last, all };  // of which rows the logits are wanted

struct StepPart {
  const Sequence* sequence;  // its reserved rows
  OutRows out = OutRows::none;
};

// The parts' rows one after the other. Every image token among them must have its tile's slot.
StepPlan build_step(std::span<const StepPart> parts, int64_t tokens_per_tile);

// Where the next prefill step of a sequence that has `begin` tokens computed and `end` known should stop: as far as
// max_rows allows, but rather at a chunk edge than behind it, so that the next step's chunked layers read nothing from
// earlier steps (performance.md 10).
int64_t prefill_step_end(int64_t begin, int64_t end, int64_t max_rows, int64_t chunk);

}  // namespace l4
