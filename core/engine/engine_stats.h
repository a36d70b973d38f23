// What an engine has done since it was started, and what it is doing: for metrics and measurements.
#pragma once

#include <array>
#include <cstdint>

#include "ops/attention_kind.h"

namespace l4 {

struct EngineStats {
  // Now. Used is what sequences hold; what only the prefix cache keeps goes when its place is needed. Both kinds may
  // share one memory: then kv_pages is what each could have of it alone.
  int64_t n_running = 0, n_waiting = 0;
  std::array<int64_t, kNumAttentionKinds> kv_pages{}, kv_pages_used{}, kv_pages_cached{};
  double kv_used_share = 0;
  double kv_usage() const { return kv_used_share; }  // of the memory, 0 to 1

  // Since the start. Requests by how they ended.
  int64_t n_stopped = 0, n_length = 0, n_cancelled = 0, n_failed = 0;
  int64_t prompt_tokens = 0, generated_tokens = 0;         // of requests admitted; of answers
  int64_t prefix_query_tokens = 0, prefix_hit_tokens = 0;  // looked for in the prefix cache; found
  int64_t preemptions = 0;
  int64_t n_steps = 0, step_rows = 0;  // rows of all steps together
  int64_t draft_tokens = 0, accepted_draft_tokens = 0;
  double step_seconds = 0;  // the runner at work
  double host_seconds = 0;  // between two steps while there was work: what the host did and the device waited for
};

}  // namespace l4
