#include "ops/backend.h"

#include <chrono>
#include <vector>

#include "base/thread_pool.h"

namespace l4 {

namespace {

constexpr int64_t kRowsAtOnce = 16;  // by one thread

// The slice's elements, row by row, in the type that `format` stores.
template <class T>
std::vector<T> make_slice(const RandomSlice& s, ThreadPool& threads) {
  std::vector<T> out(size_t(s.at.n * s.at.k));
  threads.parallel_for(s.at.n, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t j = 0; j < s.at.k; ++j) {
        const float value = random_weight(s.tensor, s.first + i * s.at.n_stride + j * s.at.k_stride);
        T& to = out[size_t(i * s.at.k + j)];
        if constexpr (sizeof(T) == sizeof(float))
          to = value;
        else
          to = to_bf16(value);
      }
  });
  return out;
}

template <class T>
PackedWeight pack_made(Backend& backend, const LinearSpec& spec, std::span<const RandomSlice> weight,
                       std::span<const RandomSlice> bias, DType dtype) {
  ThreadPool threads(0);
  std::vector<std::vector<T>> values;
  std::vector<WeightSlice> slices;
  for (std::span<const RandomSlice> part : {weight, bias})
    for (const RandomSlice& s : part) {
      values.push_back(make_slice<T>(s, threads));
      WeightSlice at = s.at;
      at.data = values.back().data();
      at.dtype = dtype;
      at.n_stride = at.k;
      at.k_stride = 1;
      slices.push_back(at);
    }
  return backend.pack(spec, {slices.data(), weight.size()}, {slices.data() + weight.size(), bias.size()});
}

// Codes and scales of slices that begin and end with groups.
struct MadeInt4 {
  std::vector<uint32_t> words;
  std::vector<BFloat16> scales;

  MadeInt4(const RandomSlice& s, int64_t group, ThreadPool& threads)
      : words(size_t(s.at.n * s.at.k / 8)), scales(size_t(s.at.n * s.at.k / group)) {
    L4_CHECK(s.at.k % group == 0 && s.at.k_offset % group == 0);
    threads.parallel_for(s.at.n, kRowsAtOnce, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t j0 = 0; j0 < s.at.k; j0 += group) {
          const auto index = [&](int64_t j) { return s.first + i * s.at.n_stride + j * s.at.k_stride; };
          BFloat16& scale = scales[size_t((i * s.at.k + j0) / group)];
          scale = to_bf16(random_int4_scale(s.tensor, index(j0)));
          const float inverse = 1 / to_float(scale);
          for (int64_t j = j0; j < j0 + group; ++j)
            words[size_t((i * s.at.k + j) / 8)] |= uint32_t(random_int4_code(s.tensor, index(j), inverse) + 8)
                                                   << j % 8 * 4;
        }
    });
  }
};

PackedWeight pack_made_int4(Backend& backend, const LinearSpec& spec, std::span<const RandomSlice> weight) {
  L4_CHECK(!spec.bias, spec.name, ": no made-up INT4 weight has a bias");
  ThreadPool threads(0);
  std::vector<MadeInt4> made;
  std::vector<WeightSlice> codes, scales;
  for (const RandomSlice& s : weight) {
    made.emplace_back(s, spec.group, threads);
    WeightSlice at = s.at;
    at.data = made.back().words.data(), at.dtype = DType::i32;
    at.n_stride = at.k / 8, at.k_stride = 1;
    codes.push_back(at);
    at.data = made.back().scales.data(), at.dtype = DType::bf16;
    at.k /= spec.group, at.k_offset /= spec.group;
    at.n_stride = at.k;
    scales.push_back(at);
  }
  return backend.pack(spec, codes, {}, scales);
}

}  // namespace

PackedWeight Backend::pack_random(const LinearSpec& spec, std::span<const RandomSlice> weight,
                                  std::span<const RandomSlice> bias) {
  if (spec.format == WeightFormat::int4) return pack_made_int4(*this, spec, weight);
  return spec.format == WeightFormat::f32 ? pack_made<float>(*this, spec, weight, bias, DType::f32)
                                          : pack_made<BFloat16>(*this, spec, weight, bias, DType::bf16);
}

void Backend::experts_in_turn(const Route& route, int64_t n_experts) {
  std::vector<int32_t> experts(size_t(route.expert.elements()));
  for (size_t i = 0; i < experts.size(); ++i) experts[i] = int32_t(i % size_t(n_experts));
  upload(route.expert, experts.data());
}

std::vector<double> Backend::time_runs(const std::function<void()>& issue, int n_runs) {
  std::vector<double> seconds;
  for (int run = 0; run <= n_runs; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    issue();
    if (run > 0) seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return seconds;
}

void Backend::fill_random(const View& to, const RandomTensor& tensor, int64_t first) {
  if (to.elements() == 0) return;
  ThreadPool threads(0);
  const int64_t k = to.cols();
  const RandomSlice all{{.n = to.elements() / k, .k = k, .n_stride = k, .k_stride = 1}, first, tensor};
  if (to.dtype == DType::f32) {
    upload(to, make_slice<float>(all, threads).data());
  } else {
    L4_CHECK(to.dtype == DType::bf16, dtype_name(to.dtype));
    upload(to, make_slice<BFloat16>(all, threads).data());
  }
}

}  // namespace l4
