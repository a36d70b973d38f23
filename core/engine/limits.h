// What the loaded model and the memory it was given allow, and whether a request keeps to it.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "engine/request.h"
#include "ops/attention_kind.h"

namespace l4 {

struct EngineLimits {
  int64_t vocab = 0;
  int64_t max_context = 0;      // tokens of prompt and answer
  int64_t attention_chunk = 0;  // 0: no chunking
  std::array<int64_t, kNumAttentionKinds> kv_pages{};
  int64_t kv_block_pages = 0;  // as BlockPool
  int64_t max_step_rows = 0, max_out_rows = 0;  // of one step; of which with logits
  int64_t max_sequences = 1;                    // computed side by side; at most max_step_rows and max_out_rows
  int64_t max_table_pages = 0;                  // of all page tables of a step together; 0: no limit

  std::vector<int32_t> eos_ids;
  int32_t image_token_id = -1;  // -1: a text-only model, and the rest is 0
  int64_t tokens_per_tile = 0;
  int64_t tile_elements = 0;  // 3 * side * side
  int64_t max_step_tiles = 0;
  int64_t encoder_rows = 0;  // of the encoder cache

  bool is_eos(int32_t id) const;
  int64_t encoder_tiles() const { return tokens_per_tile == 0 ? 0 : encoder_rows / tokens_per_tile; }
};

// Error{usage} naming the field, what is allowed and what was asked.
void check_request(const Request& request, const EngineLimits& limits);

}  // namespace l4
