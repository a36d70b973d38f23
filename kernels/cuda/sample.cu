// The host's side of sampling: a batch's parameters to the device, its kernels (sample_kernels.cu), the results back.
#include "kernels/cuda/sample.h"

#include <algorithm>
#include <cmath>

#include "kernels/cuda/memory.h"
#include "kernels/cuda/sample_kernels.h"
#include "ops/sampling_random.h"

namespace l4::cuda {

using namespace sampling;

// ---- memory

// All of a sampler's arrays. Pinned: what the host writes and reads.
struct SampleMemory {
  Row *rows, *pinned_rows;
  Patch *patches, *pinned_patches;
  uint32_t *masks, *pinned_masks;
  State *states, *pinned_states;
  uint64_t *best, *pinned_best;
  float* patched;
  uint32_t *plain, *bucket_counts;
  unsigned long long* bucket_weights;
  Part* parts;
  uint64_t* lists;

  SampleMemory(Arena& device, Arena& pinned, int64_t n, int64_t vocab) {
    const int64_t n_patches = max_patches(n, vocab), n_words = words(vocab);
    auto take = [](Arena& arena, auto*& array, int64_t count) {
      array = static_cast<std::remove_reference_t<decltype(array)>>(
          arena.take(DType::u8, {count * int64_t(sizeof *array)}).data);
    };
    auto both = [&](auto*& array, auto*& pinned_array, int64_t count) {
      take(device, array, count), take(pinned, pinned_array, count);
    };
    both(rows, pinned_rows, n);
    both(patches, pinned_patches, n_patches);
    both(masks, pinned_masks, n * n_words);
    both(states, pinned_states, n);
    both(best, pinned_best, n * kMaxBest);
    take(device, patched, n_patches);
    take(device, plain, n * n_words);
    take(device, bucket_counts, kProblems * n * kBuckets);
    take(device, bucket_weights, n * kBuckets);
    take(device, parts, kProblems * n * kMaxParts);
    take(device, lists, kProblems * n * kListed);
  }
  static int64_t words(int64_t vocab) { return (vocab + 31) / 32; }
  // One row may name the whole vocabulary; a batch whose rows name more tokens than there is room for goes in rounds.
  static int64_t max_patches(int64_t n, int64_t vocab) { return std::max(vocab, 1024 * n); }
};

size_t Sampler::device_bytes(int64_t max_rows, int64_t vocab) {
  Arena device, pinned;
  SampleMemory(device, pinned, max_rows, vocab);
  return device.peak();
}

Sampler::Sampler(Gpu& gpu, int64_t max_rows, int64_t vocab)
    : gpu_(gpu), max_rows_(max_rows), vocab_(vocab), patch_of_(size_t(vocab), -1) {
  L4_CHECK(max_rows >= 1 && kProblems * max_rows <= Gpu::kCounters && vocab >= 1 && vocab < INT_MAX - kMaxParts);
  Arena device, pinned;
  SampleMemory(device, pinned, max_rows, vocab);
  device_ = Arena(device_buffer(device.peak(), "sampling"));
  pinned_ = Arena(pinned_buffer(pinned.peak(), "sampling"));
  memory_ = std::make_unique<SampleMemory>(device_, pinned_, max_rows, vocab);
  auto clear = [&](void* data, size_t bytes) { L4_CUDA(cudaMemsetAsync(data, 0, bytes, gpu.stream)); };
  clear(memory_->bucket_counts, size_t(kProblems * max_rows * kBuckets) * sizeof(uint32_t));
  clear(memory_->bucket_weights, size_t(max_rows * kBuckets) * sizeof(uint64_t));
}
Sampler::~Sampler() = default;

// ---- a batch

// Takes one more row into the batch, unless there is no room for its patches.
bool Sampler::add(const SamplingRow& row, SampleWork& work) {
  const SamplingParams& p = row.params;
  const int32_t first_patch = work.n_patches;
  Patch* patches = memory_->pinned_patches;
  const int64_t room = SampleMemory::max_patches(max_rows_, vocab_);
  // The patch of a token, made when it is first named. Null without room: a row alone always has it.
  auto patch_of = [&](int32_t id) -> Patch* {
    L4_CHECK(id >= 0 && id < vocab_, "token ", id, " of a vocabulary of ", vocab_);
    int32_t& at = patch_of_[size_t(id)];
    if (at < 0) {
      if (work.n_patches == room) return nullptr;
      at = work.n_patches++;
      patches[at] = {.id = id};
    }
    return &patches[at];
  };
  auto name_all = [&] {
    for (const auto& [id, bias] : row.logit_bias) {
      Patch* patch = patch_of(id);
      if (!patch) return false;
      patch->bias += bias;
    }
    for (int32_t id : row.forbidden) {
      Patch* patch = patch_of(id);
      if (!patch) return false;
      patch->forbidden = 1;
    }
    if (p.repetition_penalty == 1 && p.frequency_penalty == 0 && p.presence_penalty == 0) return true;
    const bool of_prompt = p.repetition_penalty != 1;  // the others are of the output alone
    for (int32_t id : of_prompt ? row.prompt : std::span<const int32_t>()) {
      Patch* patch = patch_of(id);
      if (!patch) return false;
      patch->count = std::max(patch->count, 0);
    }
    for (int32_t id : row.output) {
      Patch* patch = patch_of(id);
      if (!patch) return false;
      patch->count = std::max(patch->count, 0) + 1;
    }
    return true;
  };
  auto forget = [&] {
    for (int32_t i = first_patch; i < work.n_patches; ++i) patch_of_[size_t(patches[i].id)] = -1;
  };
  bool fits = false;
  try {
    fits = name_all();
  } catch (...) {
    forget();
    throw;
  }
  forget();
  if (!fits) {
    work.n_patches = first_patch;
    return false;
  }

  Row& to = memory_->pinned_rows[work.n_rows++];
  to = {.temperature = std::max(p.temperature, 0.0f),
        .lowest = p.min_p > 0 ? std::log(p.min_p) : -INFINITY,
        .top_p = p.top_p,
        .top_k = p.top_k < vocab_ ? std::max(p.top_k, 0) : 0,
        .repetition = p.repetition_penalty,
        .frequency = p.frequency_penalty,
        .presence = p.presence_penalty,
        .n_best = int32_t(std::min<int64_t>(p.n_logprobs, vocab_)),
        .key = sample_key(p.seed, row.position),
        .first_patch = first_patch,
        .n_patches = work.n_patches - first_patch,
        .first_best = work.n_best,
        .mask = -1};
  if (to.n_best > kMaxBest) to.n_best = 0;  // the host sorts
  if (!row.mask.empty()) {
    const int64_t n_words = SampleMemory::words(vocab_);
    L4_CHECK(int64_t(row.mask.size()) >= n_words, "a mask of ", row.mask.size(), " words for ", vocab_, " tokens");
    to.mask = work.n_masks++;
    std::copy_n(row.mask.data(), n_words, memory_->pinned_masks + to.mask * n_words);
  }
  work.edits |= to.edited();
  work.draws |= to.temperature > 0;
  work.filters |= to.filters();
  work.logprobs |= to.n_best >= 0;
  work.n_best += std::max(to.n_best, 0);
  return true;
}

// The kernels of rows whose parameters are on the device.
void Sampler::issue(const float* logits, const SampleWork& work) {
  const SampleMemory& m = *memory_;
  int log2_vocab = 0;
  while (int64_t(1) << log2_vocab < vocab_) ++log2_vocab;
  const Batch batch{.logits = logits,
                    .vocab = int(vocab_),
                    .n_words = int(SampleMemory::words(vocab_)),
                    .n_parts = int(std::min<int64_t>((vocab_ + kPart - 1) / kPart, kMaxParts)),
                    .one = std::ldexp(1.0f, 62 - log2_vocab),  // the sum of all is below 2^63
                    .rows = m.rows,
                    .patches = m.patches,
                    .patched = m.patched,
                    .masks = m.masks,
                    .plain = m.plain,
                    .states = m.states,
                    .parts = m.parts,
                    .bucket_weights = m.bucket_weights,
                    .bucket_counts = m.bucket_counts,
                    .lists = m.lists,
                    .best = m.best,
                    .counters = gpu_.counters,
                    .n = work.n_rows};
  sampling::issue(batch, work, gpu_.stream);
}

namespace {
// The n best of a row with more logprobs than the kernels serve.
std::vector<uint64_t> sort_on_host(const float* device_logits, int64_t vocab, int64_t n) {
  std::vector<float> logits(static_cast<size_t>(vocab));
  L4_CUDA(cudaMemcpy(logits.data(), device_logits, logits.size() * sizeof(float), cudaMemcpyDeviceToHost));
  std::vector<uint64_t> keys(logits.size());
  for (size_t i = 0; i < keys.size(); ++i) keys[i] = sort_key(logits[i], int32_t(i));
  std::partial_sort(keys.begin(), keys.begin() + n, keys.end());
  keys.resize(size_t(n));
  return keys;
}
}  // namespace

// The choice of row i of the batch, `row` of the call.
TokenChoice Sampler::choice(const float* logits, const SamplingParams& params, int64_t i, int64_t row) const {
  const State& state = memory_->pinned_states[i];
  if (state.bad != INT_MAX)
    fail(ErrorKind::internal, "logits of row ", row, " hold ", std::isnan(state.bad_logit) ? "NaN" : "infinity",
         " (token ", state.bad, ")");
  if (state.highest == -INFINITY) fail(ErrorKind::internal, "logits of row ", row, ": no token is allowed");
  TokenChoice choice;
  choice.id = state.choice;
  if (params.n_logprobs < 0) return choice;
  const float total = state.raw_highest + float(std::log(state.exp_sum));
  choice.logprob = state.choice_logit - total;
  const int64_t n_best = std::min<int64_t>(params.n_logprobs, vocab_);
  std::vector<uint64_t> keys;
  if (n_best > kMaxBest) {
    keys = sort_on_host(logits + i * vocab_, vocab_, n_best);
  } else {
    const uint64_t* best = memory_->pinned_best + memory_->pinned_rows[i].first_best;
    keys.assign(best, best + n_best);
    std::sort(keys.begin(), keys.end());
  }
  for (uint64_t key : keys) choice.top.push_back({key_id(key), key_value(key) - total});
  return choice;
}

std::vector<TokenChoice> Sampler::sample(const View& logits, std::span<const SamplingRow> rows) {
  L4_CHECK(logits.rows() == int64_t(rows.size()), logits.rows(), " rows of logits, ", rows.size(), " of parameters");
  L4_CHECK(rows.empty() || logits.cols() == vocab_, "logits of ", logits.cols(), " tokens, not ", vocab_);
  const SampleMemory& m = *memory_;
  std::vector<TokenChoice> choices;
  while (choices.size() < rows.size()) {
    const size_t first = choices.size();
    SampleWork work;
    while (first + size_t(work.n_rows) < rows.size() && work.n_rows < max_rows_)
      if (!add(rows[first + size_t(work.n_rows)], work)) break;

    auto copy = [&](auto* to, const auto* from, int64_t n, cudaMemcpyKind kind) {
      if (n > 0) L4_CUDA(cudaMemcpyAsync(to, from, size_t(n) * sizeof *to, kind, gpu_.stream));
    };
    copy(m.rows, m.pinned_rows, work.n_rows, cudaMemcpyHostToDevice);
    copy(m.patches, m.pinned_patches, work.n_patches, cudaMemcpyHostToDevice);
    copy(m.masks, m.pinned_masks, work.n_masks * SampleMemory::words(vocab_), cudaMemcpyHostToDevice);
    const float* from = logits.f32() + int64_t(first) * vocab_;
    issue(from, work);
    copy(m.pinned_states, m.states, work.n_rows, cudaMemcpyDeviceToHost);
    copy(m.pinned_best, m.best, work.n_best, cudaMemcpyDeviceToHost);
    L4_CUDA(cudaStreamSynchronize(gpu_.stream));
    for (int64_t i = 0; i < work.n_rows; ++i)
      choices.push_back(choice(from, rows[first + size_t(i)].params, i, int64_t(first) + i));
  }
  return choices;
}

}  // namespace l4::cuda
