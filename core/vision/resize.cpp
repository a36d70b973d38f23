#include "vision/resize.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace l4 {

namespace {

// The filter along one axis: output i is the weighted sum of inputs first[i] .. first[i] + n[i].
struct AxisFilter {
  int precision = 0;  // weights are scaled by 2^precision
  int64_t taps = 0;   // room for each output in `weights`
  std::vector<int64_t> first, n;
  std::vector<int16_t> weights;  // [out, taps]
};

AxisFilter make_filter(int64_t in, int64_t out) {
  const double scale = double(in) / double(out);
  const double support = std::max(scale, 1.0);
  const double inverse = scale >= 1.0 ? 1.0 / scale : 1.0;
  AxisFilter filter;
  filter.taps = int64_t(std::ceil(support)) * 2 + 1;
  filter.first.resize(size_t(out));
  filter.n.resize(size_t(out));
  std::vector<double> exact(size_t(out * filter.taps), 0.0);
  double greatest = 0;
  for (int64_t i = 0; i < out; ++i) {
    const double centre = scale * (double(i) + 0.5);
    const int64_t first = std::max<int64_t>(int64_t(centre - support + 0.5), 0);
    const int64_t end = std::min<int64_t>(int64_t(centre + support + 0.5), in);
    const int64_t n = std::clamp<int64_t>(end - first, 0, filter.taps);
    double* w = &exact[size_t(i * filter.taps)];
    double total = 0;
    for (int64_t j = 0; j < n; ++j) {
      const double x = std::abs((double(j + first) - centre + 0.5) * inverse);
      w[j] = x < 1.0 ? 1.0 - x : 0.0;
      total += w[j];
    }
    for (int64_t j = 0; j < n && total != 0; ++j) {
      w[j] /= total;
      greatest = std::max(greatest, w[j]);
    }
    filter.first[size_t(i)] = first;
    filter.n[size_t(i)] = n;
  }
  while (filter.precision < 22 && int(0.5 + greatest * (1 << (filter.precision + 1))) < (1 << 15)) ++filter.precision;
  filter.weights.resize(exact.size());
  for (size_t k = 0; k < exact.size(); ++k) filter.weights[k] = int16_t(0.5 + exact[k] * (1 << filter.precision));
  return filter;
}

uint8_t to_level(int32_t sum, int precision) {
  return uint8_t(std::clamp(sum >> precision, 0, 255));
}

Image resize_columns(const Image& in, int64_t width) {
  const AxisFilter filter = make_filter(in.width, width);
  Image out{in.height, width, std::vector<uint8_t>(size_t(in.height * width * 3))};
  for (int64_t y = 0; y < in.height; ++y) {
    const uint8_t* row = &in.rgb[size_t(y * in.width * 3)];
    uint8_t* to = &out.rgb[size_t(y * width * 3)];
    for (int64_t x = 0; x < width; ++x, to += 3) {
      const int16_t* w = &filter.weights[size_t(x * filter.taps)];
      const uint8_t* from = row + filter.first[size_t(x)] * 3;
      int32_t r = 1 << (filter.precision - 1), g = r, b = r;
      for (int64_t j = 0; j < filter.n[size_t(x)]; ++j, from += 3) {
        r += w[j] * from[0];
        g += w[j] * from[1];
        b += w[j] * from[2];
      }
      to[0] = to_level(r, filter.precision);
      to[1] = to_level(g, filter.precision);
      to[2] = to_level(b, filter.precision);
    }
  }
  return out;
}

Image resize_rows(const Image& in, int64_t height) {
  const AxisFilter filter = make_filter(in.height, height);
  const size_t row_bytes = size_t(in.width * 3);
  Image out{height, in.width, std::vector<uint8_t>(size_t(height) * row_bytes)};
  std::vector<int32_t> sums(row_bytes);
  for (int64_t y = 0; y < height; ++y) {
    std::fill(sums.begin(), sums.end(), 1 << (filter.precision - 1));
    for (int64_t j = 0; j < filter.n[size_t(y)]; ++j) {
      const int32_t w = filter.weights[size_t(y * filter.taps + j)];
      const uint8_t* from = &in.rgb[size_t(filter.first[size_t(y)] + j) * row_bytes];
      for (size_t x = 0; x < row_bytes; ++x) sums[x] += w * from[x];
    }
    uint8_t* to = &out.rgb[size_t(y) * row_bytes];
    for (size_t x = 0; x < row_bytes; ++x) to[x] = to_level(sums[x], filter.precision);
  }
  return out;
}

}  // namespace

Image resize_bilinear(const Image& image, int64_t height, int64_t width) {
  L4_CHECK(height >= 1 && width >= 1 && image.height >= 1 && image.width >= 1);
  if (width == image.width) return height == image.height ? image : resize_rows(image, height);
  Image wide = resize_columns(image, width);
  return height == image.height ? wide : resize_rows(wide, height);
}

}  // namespace l4
