#include "model/rope.h"

#include <cmath>
#include <numbers>

namespace l4 {

std::vector<float> text_inv_freq(const TextConfig& text) {
  const RopeConfig& rope = text.rope;
  const int64_t half = text.head_dim / 2;
  std::vector<float> inv_freq;
  for (int64_t i = 0; i < half; ++i) {
    float power = float(std::pow(rope.theta, double(i) / double(half)));
    float f = 1.0f / power;
    if (rope.scaled) {
      const float wavelength = 2 * std::numbers::pi_v<float> / f;
      const float low = float(double(rope.original_max_positions) / rope.low_freq_factor);
      const float high = float(double(rope.original_max_positions) / rope.high_freq_factor);
      if (wavelength > low) {
        f = f / float(rope.factor);
      } else if (wavelength >= high && rope.high_freq_factor > rope.low_freq_factor) {
        // With equal factors (Scout: 1 and 1) this branch divides 0 by 0; it can only be met at wavelength == high.
        float smooth = (float(rope.original_max_positions) / wavelength - float(rope.low_freq_factor)) /
                       float(rope.high_freq_factor - rope.low_freq_factor);
        f = (1 - smooth) * f / float(rope.factor) + smooth * f;
      }
    }
    inv_freq.push_back(f);
  }
  return inv_freq;
}

std::vector<float> vision_rope_table(const VisionConfig& vision) {
  const int64_t grid = vision.grid(), pairs = vision.head_dim() / 2, quarter = pairs / 2;
  std::vector<float> theta;
  for (int64_t j = 0; j < quarter; ++j)
    theta.push_back(1.0f / float(std::pow(vision.rope_theta, double(2 * j) / double(pairs))));
  std::vector<float> table;
  table.reserve(size_t((vision.patches() + 1) * pairs * 2));
  for (int64_t patch = 0; patch <= vision.patches(); ++patch) {
    const bool is_class = patch == vision.patches();
    for (int64_t m = 0; m < pairs; ++m) {
      int64_t coordinate = m < quarter ? patch % grid + 1 : patch / grid + 1;
      float angle = is_class ? 0.0f : float(coordinate) * theta[size_t(m % quarter)];
      table.push_back(std::cos(angle));
      table.push_back(std::sin(angle));
    }
  }
  return table;
}

}  // namespace l4
