#include "model/rope.h"

#include <cmath>

#include "support/test.h"

using namespace l4;

namespace {

// theta = 500000, d = 128, from transformers 5.17 (ROPE_INIT_FUNCTIONS["default"]).
const float kReference[64] = {
    0x1p+0,         0x1.a11582p-1,  0x1.53c38cp-1,  0x1.14c708p-1,  0x1.c2ef78p-2,  0x1.6f56fap-2,  0x1.2b3dc6p-2,
    0x1.e788c2p-3,  0x1.8d276p-3,   0x1.43874p-3,   0x1.078d4p-3,   0x1.ad6338p-4,  0x1.5dc95ap-4,  0x1.1cf13p-4,
    0x1.d03ccep-5,  0x1.7a2d08p-5,  0x1.34119p-5,   0x1.f5ea7ep-6,  0x1.98de92p-6,  0x1.4d1272p-6,  0x1.0f5386p-6,
    0x1.ba0dd8p-7,  0x1.681adap-7,  0x1.2558fep-7,  0x1.ddee9ep-8,  0x1.8554ecp-8,  0x1.3d2804p-8,  0x1.025c6ap-8,
    0x1.a4ee4p-9,   0x1.56e5b8p-9,  0x1.175482p-9,  0x1.c7182p-10,  0x1.72ba42p-10, 0x1.2e0046p-10, 0x1.ec07d4p-11,
    0x1.90d10cp-11, 0x1.46831ap-11, 0x1.09fb7ep-11, 0x1.b15902p-12, 0x1.610332p-12, 0x1.1f91fp-12,  0x1.d484dep-13,
    0x1.7da9e8p-13, 0x1.36e8eap-13, 0x1.fa8b86p-14, 0x1.9ca3eap-14, 0x1.5024d6p-14, 0x1.11d41ep-14, 0x1.be2188p-15,
    0x1.6b6d0ep-15, 0x1.280d96p-15, 0x1.e257p-16,   0x1.88ec2p-16,  0x1.4014d2p-16, 0x1.04be68p-16, 0x1.a8d01p-17,
    0x1.5a0f4ep-17, 0x1.19e8p-17,   0x1.cb4a9ap-18, 0x1.76258ep-18, 0x1.30c94ep-18, 0x1.f09184p-19, 0x1.94836p-19,
    0x1.4985fep-19};

TextConfig text_config() {
  TextConfig text;
  text.head_dim = 128;
  return text;
}

}  // namespace

TEST_CASE("rope: inverse frequencies are the reference's, bit for bit") {
  std::vector<float> f = text_inv_freq(text_config());
  REQUIRE(f.size() == 64);
  for (size_t i = 0; i < 64; ++i) CHECK(f[i] == kReference[i]);
}

TEST_CASE("rope: Scout's scaling divides frequencies 35 and up by 16 and touches no other") {
  TextConfig text = text_config();
  text.rope = {500000.0, true, 16, 1, 1, 8192};
  std::vector<float> f = text_inv_freq(text);
  for (size_t i = 0; i < 64; ++i) CHECK(f[i] == (i <= 34 ? kReference[i] : kReference[i] / 16));
}

TEST_CASE("rope: the smooth branch lies between scaled and unscaled") {
  TextConfig text = text_config();
  text.rope = {500000.0, true, 8, 1, 4, 8192};
  std::vector<float> f = text_inv_freq(text);
  int smooth = 0;
  for (size_t i = 0; i < 64; ++i) {
    CHECK(std::isfinite(f[i]));
    CHECK(f[i] <= kReference[i]);
    CHECK(f[i] >= kReference[i] / 8);
    smooth += f[i] < kReference[i] && f[i] > kReference[i] / 8;
  }
  CHECK(smooth == 6);  // wavelengths between 2048 and 8192
}

TEST_CASE("rope: the vision table turns columns first, then rows, and leaves the class token alone") {
  VisionConfig v;
  v.hidden = 1408, v.n_heads = 16;
  std::vector<float> t = vision_rope_table(v);
  REQUIRE(t.size() == 577 * 44 * 2);
  auto at = [&](int token, int pair, int part) { return double(t[size_t((token * 44 + pair) * 2 + part)]); };
  // observed in transformers 5.17
  CHECK(at(0, 0, 0) == doctest::Approx(0.5403).epsilon(1e-4));
  CHECK(at(0, 0, 1) == doctest::Approx(0.8415).epsilon(1e-4));
  CHECK(at(0, 1, 0) == doctest::Approx(0.7913).epsilon(1e-4));
  CHECK(at(0, 2, 1) == doctest::Approx(0.4195).epsilon(1e-4));
  CHECK(at(25, 22, 0) == doctest::Approx(-0.4161).epsilon(1e-4));
  CHECK(at(25, 22, 1) == doctest::Approx(0.9093).epsilon(1e-4));
  for (int pair = 0; pair < 44; ++pair) {
    CHECK(at(576, pair, 0) == 1.0);
    CHECK(at(576, pair, 1) == 0.0);
  }
}
