// KV of a prompt in a file: what another process would have to compute, read back instead.
//
// A safetensors file. Its metadata says where the KV comes from (KvOrigin: model, weights, types, layout), and must be
// the same where it is read. Its tensors:
//   checksums      U64  of all that describes the prompt, then of each global and each chunked page
//   image_tiles    I64  of each picture
//   ids            I32  of the tokens whose KV follows; the last picture's may be cut off
//   image_digests  U8   [pictures, 16]
//   global         U8   [pages, bytes]: those of the whole prompt, each with the parts of all ranks one after the other
//   chunked        U8   [pages, bytes]: of the last token's attention chunk
// Written whole or not at all. What is read goes into the prefix cache as if it had just been computed; a file that is
// damaged or another model's changes nothing. Slots behind the last token hold whatever lay there.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "engine/limits.h"
#include "engine/prefix_cache.h"
#include "engine/step_runner.h"

namespace l4 {

// Names and values, in the order in which differences are looked for.
using KvOrigin = std::vector<std::pair<std::string, std::string>>;

// Of a sequence whose KV is in pages from prefix_cache's adopt() on, n_committed() tokens. Error{io} naming the file.
void write_prompt_file(const fs::path& path, const KvOrigin& origin, const Sequence& sequence, StepRunner& runner);

// The number of tokens that the cache knows now. Error{io | input} naming the file and what in it is not as it must be,
// Error{memory} when the pools have no room for it. Evicts what is kept and idle to make room.
int64_t read_prompt_file(const fs::path& path, const KvOrigin& origin, const EngineLimits& limits, KvPools& pools,
                         PrefixCache& cache, const std::string& salt, StepRunner& runner);

}  // namespace l4
