// The modes that run a model. Each measures every combination of its lists on every model, a row each.
#pragma once

#include "tools/bench/bench.h"

namespace l4::bench {

// llama-bench's table: pp (a prompt is read), tg (tokens are decoded one by one), pg (one after the other), each behind
// `depths` tokens that are in the KV cache already.
struct TableOptions {
  CommonOptions common;
  std::vector<int64_t> prompts = {512}, answers = {128}, depths = {0}, batches;
  std::vector<std::pair<int64_t, int64_t>> pairs;
};
void run_table(const TableOptions& options);

// Steps of `batch` sequences, one token each, at a context that grows from the one named.
struct DecodeOptions {
  CommonOptions common;
  std::vector<int64_t> batches = {1}, contexts = {1024};
  int64_t n_steps = 200;
  int64_t fill_rows = 0;  // of the largest step that computes a context; 0: the default
};
void run_decode(const DecodeOptions& options);

// Whole prompts, the choice of the first token included.
struct PrefillOptions {
  CommonOptions common;
  std::vector<int64_t> prompts = {512, 8192}, step_rows;
};
void run_prefill(const PrefillOptions& options);

// `batch` prompts that come at once: time to each one's first token, then the time of each further token.
struct LatencyOptions {
  CommonOptions common;
  std::vector<int64_t> batches = {1}, prompts = {1024};
  int64_t n_gen = 128;
};
void run_latency(const LatencyOptions& options);

// From files to the first token: the device's own start, loading, the first prompt of a process.
struct LoadTimeOptions {
  CommonOptions common;
  int64_t n_prompt = 16;
};
void run_load(const LoadTimeOptions& options);

}  // namespace l4::bench
