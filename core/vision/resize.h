// Antialiased bilinear resizing of 8-bit RGB, bit for bit what torchvision 0.26 (torch 2.11) gives for a uint8 tensor
// with antialias=True on an x86 CPU with AVX2: the integer kernel of ATen's UpSampleKernel, which follows Pillow's.
//
// Along one axis, with scale = in / out, support = max(scale, 1) and centre = scale * (i + 0.5) for output i, the
// inputs [centre - support + 0.5, centre + support + 0.5) (clipped, truncated) weigh 1 - |(j + 0.5 - centre) /
// max(scale, 1)|, normalised in double. Weights become int16 with the largest precision p <= 22 at which the axis'
// greatest weight still fits; a sum starts at 2^(p-1), is shifted right by p and clipped to 0..255. Columns first, then
// rows; an axis whose size does not change is copied.
#pragma once

#include <cstdint>

#include "vision/image.h"

namespace l4 {

// height, width >= 1; `image` not empty.
Image resize_bilinear(const Image& image, int64_t height, int64_t width);

}  // namespace l4
