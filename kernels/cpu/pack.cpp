// Logical weight slices to the layout of panels.h. Gate and up rows stay as they are: first all gates, then all ups.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/host_memory.h"
#include "kernels/cpu/panels.h"
#include "ops/weight_slices.h"
#include "quant/format.h"

namespace l4::cpu {

namespace {
size_t data_bytes(const LinearSpec& spec) {
  return size_t(spec.n_experts * n_panels(spec) * panel_bytes(spec));
}
size_t scale_bytes(const LinearSpec& spec) {
  if (!is_quantized(spec.format)) return 0;
  return size_t(spec.n_experts * n_panels(spec) * n_groups(spec) * kPanel) * sizeof(float);
}
size_t bias_bytes(const LinearSpec& spec) {
  return spec.bias ? size_t(spec.n_experts * spec.n) * sizeof(float) : 0;
}

template <class To>
constexpr int64_t position(int64_t column) {  // of a panel's column in its row of 32
  return std::is_same_v<To, float> ? column : paired_position(column);
}

template <class From, class To>
void pack_block(const WeightSlice& s, int64_t panel, int64_t k0, int64_t k1, To* to) {
  if constexpr (std::is_same_v<From, BFloat16> && std::is_same_v<To, BFloat16>) {
    if (s.n_stride == 1 && panel * kPanel >= s.n_offset && (panel + 1) * kPanel <= s.n_offset + s.n) {
      // The fused experts of released checkpoints: a loop that becomes vector code.
      const From* from = static_cast<const From*>(s.data) + (panel * kPanel - s.n_offset);
      for (int64_t k = k0; k < k1; ++k) {
        const From* row = from + (k - s.k_offset) * s.k_stride;
        for (int64_t j = 0; j < kPanel / 2; ++j) {
          to[k * kPanel + 2 * j] = row[j];
          to[k * kPanel + 2 * j + 1] = row[kPanel / 2 + j];
        }
      }
      return;
    }
  }
  for_each_element<From>(s, panel, k0, k1, [&](int64_t n, int64_t k, From value) {
    To& out = to[k * kPanel + position<To>(n - panel * kPanel)];
    if constexpr (std::is_same_v<From, To>)
      out = value;  // bit for bit
    else
      out = rounded<To>(get(value));
  });
}

template <class To>
void clear_padding(const LinearSpec& spec, To* data) {
  const int64_t used = spec.n % kPanel, panel_elements = spec.k * kPanel;
  if (used == 0) return;
  for (int64_t e = 0; e < spec.n_experts; ++e) {
    To* panel = data + ((e + 1) * n_panels(spec) - 1) * panel_elements;
    for (int64_t k = 0; k < spec.k; ++k)
      for (int64_t n = used; n < kPanel; ++n) panel[k * kPanel + position<To>(n)] = To{};
  }
}

template <class To>
void pack_all(ThreadPool& pool, const LinearSpec& spec, std::span<const WeightSlice> slices, void* data) {
  const int64_t panel_elements = spec.k * kPanel;
  for (const WeightSlice& s : slices)
    with_stored_type(s.dtype, [&](auto from) {
      To* expert = static_cast<To*>(data) + s.expert * n_panels(spec) * panel_elements;
      for_each_block(pool, s, [&](int64_t panel, int64_t k0, int64_t k1) {
        pack_block<decltype(from)>(s, panel, k0, k1, expert + panel * panel_elements);
      });
    });
  clear_padding(spec, static_cast<To*>(data));
}
}  // namespace

size_t packed_weight_bytes(const LinearSpec& spec) {
  return data_bytes(spec) + scale_bytes(spec) + bias_bytes(spec);
}

PackedWeight pack_weight(ThreadPool& pool, const LinearSpec& spec, std::span<const WeightSlice> weight,
                         std::span<const WeightSlice> bias, std::span<const WeightSlice> scale) {
  L4_CHECK(spec.n > 0 && spec.k > 0 && spec.n_experts > 0 && (!spec.gated || spec.n % 2 == 0), spec.name);
  L4_CHECK(spec.format != WeightFormat::int4 || (spec.group > 0 && spec.k % spec.group == 0), spec.name, ": groups of ",
           spec.group, " of ", spec.k, " columns");
  L4_CHECK(is_quantized(spec.format) || scale.empty(), spec.name, ": scales where none were announced");
  L4_CHECK(spec.bias || bias.empty(), spec.name, ": a bias where none was announced");
  PackedWeight packed{.spec = spec, .data = huge_buffer(data_bytes(spec), spec.name.c_str()), .scales = {}, .bias = {}};
  if (is_quantized(spec.format)) {
    packed.scales = host_buffer(scale_bytes(spec), spec.name.c_str());
    pack_codes(pool, spec, weight, scale, static_cast<uint8_t*>(packed.data.data()),
               static_cast<float*>(packed.scales.data()));
  } else {
    check_slices(spec, weight, spec.k, "weight");
    if (spec.format == WeightFormat::f32)
      pack_all<float>(pool, spec, weight, packed.data.data());
    else
      pack_all<BFloat16>(pool, spec, weight, packed.data.data());
  }

  if (spec.bias) {
    check_slices(spec, bias, 1, "bias");
    packed.bias = host_buffer(bias_bytes(spec), spec.name.c_str());
    float* to = static_cast<float*>(packed.bias.data());
    for (const WeightSlice& s : bias)
      with_stored_type(s.dtype, [&](auto type) {
        const auto* from = static_cast<const decltype(type)*>(s.data);
        for (int64_t i = 0; i < s.n; ++i) to[s.expert * spec.n + s.n_offset + i] = get(from[i * s.n_stride]);
      });
  }
  return packed;
}

}  // namespace l4::cpu
