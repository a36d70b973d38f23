// Logical weight slices to the layout of linear.cpp: for each expert, panels of 32 output columns, each [k][32], the
// last panel padded with zeros. F32 keeps columns in order; BF16 pairs column j with 16 + j (simd/kernels.h). Gate and
// up rows stay as they are: first all gates, then all ups.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cpu/host_memory.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/simd/kernels.h"
#include "ops/weight_slices.h"
#include "quant/format.h"

namespace l4::cpu {

namespace {
constexpr int64_t kBlockK = 128;  // of a panel packed at once: 32 rows of 256 bytes in, 8 KB out

size_t element_bytes(const LinearSpec& spec) {
  switch (spec.format) {
    case WeightFormat::f32:
      return 4;
    case WeightFormat::bf16:
      return 2;
    default:
      fail(ErrorKind::unsupported, spec.name, ": the CPU backend holds weights as F32 or BF16, not ",
           weight_format_name(spec.format));
  }
}
int64_t panel_elements(const LinearSpec& spec) {
  return spec.k * kPanel;
}
size_t data_bytes(const LinearSpec& spec) {
  return size_t(spec.n_experts * n_panels(spec) * panel_elements(spec)) * element_bytes(spec);
}
size_t bias_bytes(const LinearSpec& spec) {
  return spec.bias ? size_t(spec.n_experts * spec.n) * sizeof(float) : 0;
}

float read(DType dtype, const void* data, int64_t i) {
  switch (dtype) {
    case DType::f32:
      return static_cast<const float*>(data)[i];
    case DType::bf16:
      return to_float(static_cast<const BFloat16*>(data)[i]);
    default:
      return f16_to_float(static_cast<const uint16_t*>(data)[i]);
  }
}
struct F16Bits {
  uint16_t bits;
};
float get(F16Bits v) {
  return f16_to_float(v.bits);
}
using cpu::get;

template <class To>
constexpr int64_t position(int64_t column) {  // of a panel's column in its row of 32
  if constexpr (std::is_same_v<To, float>)
    return column;
  else
    return column < kPanel / 2 ? 2 * column : 2 * (column - kPanel / 2) + 1;
}

// The part of slice `s` in one panel and [k0, k1) of k (both of the whole matrix). Reads along whichever axis is dense.
template <class From, class To>
void pack_block(const WeightSlice& s, int64_t panel, int64_t k0, int64_t k1, To* to) {
  const int64_t n0 = std::max(panel * kPanel, s.n_offset);
  const int64_t n1 = std::min((panel + 1) * kPanel, s.n_offset + s.n);
  const From* from = static_cast<const From*>(s.data);
  auto move = [&](int64_t n, int64_t k) {
    const From value = from[(n - s.n_offset) * s.n_stride + (k - s.k_offset) * s.k_stride];
    To& out = to[k * kPanel + position<To>(n - panel * kPanel)];
    if constexpr (std::is_same_v<From, To>)
      out = value;  // bit for bit
    else
      out = rounded<To>(get(value));
  };
  if (s.n_stride == 1) {
    if constexpr (std::is_same_v<From, BFloat16> && std::is_same_v<To, BFloat16>) {
      if (n1 - n0 == kPanel) {  // the fused experts of released checkpoints: a loop that becomes vector code
        for (int64_t k = k0; k < k1; ++k) {
          const From* row = from + (n0 - s.n_offset) + (k - s.k_offset) * s.k_stride;
          for (int64_t j = 0; j < kPanel / 2; ++j) {
            to[k * kPanel + 2 * j] = row[j];
            to[k * kPanel + 2 * j + 1] = row[kPanel / 2 + j];
          }
        }
        return;
      }
    }
    for (int64_t k = k0; k < k1; ++k)
      for (int64_t n = n0; n < n1; ++n) move(n, k);
  } else {
    for (int64_t n = n0; n < n1; ++n)
      for (int64_t k = k0; k < k1; ++k) move(n, k);
  }
}

template <class To>
void pack_slice(ThreadPool& pool, const LinearSpec& spec, const WeightSlice& s, To* data) {
  if (s.n == 0 || s.k == 0) return;
  To* expert = data + s.expert * n_panels(spec) * panel_elements(spec);
  const int64_t first_panel = s.n_offset / kPanel, end_panel = (s.n_offset + s.n + kPanel - 1) / kPanel;
  pool.parallel_for(end_panel - first_panel, 1, [&](int64_t begin, int64_t end) {
    // k outside, panels inside: a transposed source is then read along its rows, a plain one 256 bytes a row at a time.
    for (int64_t k0 = s.k_offset; k0 < s.k_offset + s.k; k0 += kBlockK) {
      const int64_t k1 = std::min(k0 + kBlockK, s.k_offset + s.k);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t panel = first_panel + i;
        To* to = expert + panel * panel_elements(spec);
        switch (s.dtype) {
          case DType::f32:
            pack_block<float>(s, panel, k0, k1, to);
            break;
          case DType::bf16:
            pack_block<BFloat16>(s, panel, k0, k1, to);
            break;
          default:
            pack_block<F16Bits>(s, panel, k0, k1, to);
            break;
        }
      }
    }
  });
}

template <class To>
void clear_padding(const LinearSpec& spec, To* data) {
  const int64_t used = spec.n % kPanel;
  if (used == 0) return;
  for (int64_t e = 0; e < spec.n_experts; ++e) {
    To* panel = data + ((e + 1) * n_panels(spec) - 1) * panel_elements(spec);
    for (int64_t k = 0; k < spec.k; ++k)
      for (int64_t n = used; n < kPanel; ++n) panel[k * kPanel + position<To>(n)] = To{};
  }
}

template <class To>
void pack_all(ThreadPool& pool, const LinearSpec& spec, std::span<const WeightSlice> slices, void* data) {
  for (const WeightSlice& s : slices) pack_slice(pool, spec, s, static_cast<To*>(data));
  clear_padding(spec, static_cast<To*>(data));
}
}  // namespace

size_t packed_weight_bytes(const LinearSpec& spec) {
  return data_bytes(spec) + bias_bytes(spec);
}

PackedWeight pack_weight(ThreadPool& pool, const LinearSpec& spec, std::span<const WeightSlice> weight,
                         std::span<const WeightSlice> bias, std::span<const WeightSlice> scale) {
  L4_CHECK(scale.empty(), spec.name);
  L4_CHECK(spec.n > 0 && spec.k > 0 && spec.n_experts > 0 && (!spec.gated || spec.n % 2 == 0), spec.name);
  L4_CHECK(spec.bias || bias.empty(), spec.name, ": a bias where none was announced");
  PackedWeight packed{.spec = spec, .data = huge_buffer(data_bytes(spec), spec.name.c_str()), .scales = {}, .bias = {}};
  check_slices(spec, weight, spec.k, "weight");
  if (spec.format == WeightFormat::f32)
    pack_all<float>(pool, spec, weight, packed.data.data());
  else
    pack_all<BFloat16>(pool, spec, weight, packed.data.data());

  if (spec.bias) {
    check_slices(spec, bias, 1, "bias");
    packed.bias = host_buffer(bias_bytes(spec), spec.name.c_str());
    for (const WeightSlice& s : bias)
      for (int64_t i = 0; i < s.n; ++i)
        static_cast<float*>(packed.bias.data())[s.expert * spec.n + s.n_offset + i] =
            read(s.dtype, s.data, i * s.n_stride);
  }
  return packed;
}

}  // namespace l4::cpu
