// FP8 and INT4 in the layout of panels.h: codes and scales as a checkpoint has them, or FP8 codes made here of weights
// of another type. What no product could use is refused: scales that are zero or no finite numbers, codes that are NaN.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/panels.h"
#include "ops/weight_slices.h"
#include "quant/fp8.h"

namespace l4::cpu {

namespace {
std::string row_name(const LinearSpec& spec, int64_t expert, int64_t n) {
  return spec.n_experts == 1 ? cat("row ", n) : cat("row ", n, " of expert ", expert);
}

float* panel_scales(const LinearSpec& spec, float* scales, int64_t expert, int64_t panel) {
  return scales + (expert * n_panels(spec) + panel) * n_groups(spec) * kPanel;
}
uint8_t* panel_codes(const LinearSpec& spec, uint8_t* data, int64_t expert, int64_t panel) {
  return data + (expert * n_panels(spec) + panel) * panel_bytes(spec);
}

void check_scale(const LinearSpec& spec, int64_t expert, int64_t n, int64_t group, float scale) {
  if (std::isfinite(scale) && scale != 0) return;
  fail(ErrorKind::input, spec.name, ": the scale of ", row_name(spec, expert, n),
       spec.format == WeightFormat::int4 ? cat(", group ", group) : "", " is ", scale);
}

// A slice of scales counts groups where one of weights counts columns. Those of groups are BF16 wherever they are held
// (quant/format.h), so they are rounded to it here too.
void pack_scales(ThreadPool& pool, const LinearSpec& spec, std::span<const WeightSlice> slices, float* scales) {
  for (const WeightSlice& s : slices)
    with_stored_type(s.dtype, [&](auto from) {
      for_each_block(pool, s, [&](int64_t panel, int64_t g0, int64_t g1) {
        float* to = panel_scales(spec, scales, s.expert, panel);
        for_each_element<decltype(from)>(s, panel, g0, g1, [&](int64_t n, int64_t g, auto stored) {
          const float scale = spec.format == WeightFormat::int4 ? round_bf16(get(stored)) : get(stored);
          check_scale(spec, s.expert, n, g, scale);
          to[g * kPanel + n - panel * kPanel] = scale;
        });
      });
    });
}

void put_fp8(const LinearSpec& spec, int64_t expert, int64_t panel, int64_t n, int64_t k, uint8_t code, uint8_t* to) {
  if ((code & 0x7F) == 0x7F)
    fail(ErrorKind::input, spec.name, ": the weight of ", row_name(spec, expert, n), ", column ", k, " is NaN");
  to[k * kPanel + paired_position(n - panel * kPanel)] = code;
}

void pack_fp8(ThreadPool& pool, const LinearSpec& spec, std::span<const WeightSlice> slices, uint8_t* data) {
  for (const WeightSlice& s : slices)
    for_each_block(pool, s, [&](int64_t panel, int64_t k0, int64_t k1) {
      uint8_t* to = panel_codes(spec, data, s.expert, panel);
      for_each_element<uint8_t>(s, panel, k0, k1, [&](int64_t n, int64_t k, uint8_t code) {
        put_fp8(spec, s.expert, panel, n, k, code, to);
      });
    });
}

// Codes of w / s with s = max|w| / 448 over a whole row, which may lie in several slices: the maxima come first, in the
// place of the scales (zeros so far).
void make_fp8(ThreadPool& pool, const LinearSpec& spec, std::span<const WeightSlice> slices, uint8_t* data,
              float* scales) {
  for (const WeightSlice& s : slices)
    with_stored_type(s.dtype, [&](auto from) {
      for_each_block(pool, s, [&](int64_t panel, int64_t k0, int64_t k1) {
        float* largest = panel_scales(spec, scales, s.expert, panel);
        for_each_element<decltype(from)>(s, panel, k0, k1, [&](int64_t n, int64_t, auto w) {
          float& at = largest[n - panel * kPanel];
          at = std::max(at, std::abs(get(w)));  // a NaN is passed over here and becomes a code that is refused
        });
      });
    });
  for (int64_t e = 0; e < spec.n_experts; ++e)
    for (int64_t n = 0; n < spec.n; ++n) {
      float& at = panel_scales(spec, scales, e, n / kPanel)[n % kPanel];
      at = fp8_scale(at);
      check_scale(spec, e, n, 0, at);
    }
  for (const WeightSlice& s : slices)
    with_stored_type(s.dtype, [&](auto from) {
      for_each_block(pool, s, [&](int64_t panel, int64_t k0, int64_t k1) {
        const float* scale = panel_scales(spec, scales, s.expert, panel);
        uint8_t* to = panel_codes(spec, data, s.expert, panel);
        for_each_element<decltype(from)>(s, panel, k0, k1, [&](int64_t n, int64_t k, auto w) {
          put_fp8(spec, s.expert, panel, n, k, fp8_from_float(get(w) / scale[n - panel * kPanel]), to);
        });
      });
    });
}

// Half a byte of the panel; the other half may be another slice's.
void put_int4(uint8_t* panel, int64_t column, int64_t k, uint32_t code) {
  uint8_t& pair = panel[k * kPanel / 2 + column % (kPanel / 2)];
  pair = column < kPanel / 2 ? uint8_t((pair & 0xF0) | code) : uint8_t((pair & 0x0F) | code << 4);
}

void pack_int4(ThreadPool& pool, const LinearSpec& spec, std::span<const WeightSlice> slices, uint8_t* data) {
  for (const WeightSlice& codes : slices) {
    WeightSlice words = codes;
    words.k /= 8;
    words.k_offset /= 8;
    for_each_block(pool, words, [&](int64_t panel, int64_t w0, int64_t w1) {
      uint8_t* to = panel_codes(spec, data, words.expert, panel);
      for_each_element<uint32_t>(words, panel, w0, w1, [&](int64_t n, int64_t w, uint32_t word) {
        for (int64_t i = 0; i < 8; ++i) put_int4(to, n - panel * kPanel, 8 * w + i, word >> 4 * i & 15);
      });
    });
  }
}

// Codes of zero in the columns that a last panel has and the matrix has not.
void clear_padding(const LinearSpec& spec, uint8_t* data) {
  if (spec.n % kPanel == 0) return;
  for (int64_t e = 0; e < spec.n_experts; ++e)
    std::memset(panel_codes(spec, data, e, n_panels(spec) - 1), spec.format == WeightFormat::int4 ? 0x88 : 0,
                size_t(panel_bytes(spec)));
}
}  // namespace

void pack_codes(ThreadPool& pool, const LinearSpec& spec, std::span<const WeightSlice> weight,
                std::span<const WeightSlice> scale, uint8_t* data, float* scales) {
  if (spec.input == InputFormat::fp8_static && !(std::isfinite(spec.input_scale) && spec.input_scale != 0))
    fail(ErrorKind::input, spec.name, ": the scale of its input is ", spec.input_scale);
  const bool as_stored = spec.format == WeightFormat::int4 || !scale.empty();
  check_slices(spec, weight, spec.k, "weight", as_stored);
  clear_padding(spec, data);
  std::fill_n(scales, spec.n_experts * n_panels(spec) * n_groups(spec) * kPanel, 0.0f);
  if (!as_stored) {
    make_fp8(pool, spec, weight, data, scales);
    return;
  }
  check_slices(spec, scale, n_groups(spec), "scale");
  pack_scales(pool, spec, scale, scales);
  if (spec.format == WeightFormat::fp8)
    pack_fp8(pool, spec, weight, data);
  else
    pack_int4(pool, spec, weight, data);
}

}  // namespace l4::cpu
