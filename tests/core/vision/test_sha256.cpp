#include "vision/sha256.h"

#include "vision_golden.h"

using namespace l4;
using namespace l4::test;

// FIPS 180-4's examples (NIST CSRC, "Secure Hash Standard" example values).
TEST_CASE("sha256: known digests") {
  const auto of = [](const std::string& text) { return sha256_hex(text.data(), text.size()); };
  CHECK(of("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(of(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("sha256: pieces hash as the whole") {
  const Image image = pattern(10, 33);
  Sha256 hash;
  for (size_t at = 0, n = 1; at < image.rgb.size(); at += n, n = n % 70 + 9) {
    hash.update(std::span(image.rgb).subspan(at, std::min(n, image.rgb.size() - at)));
  }
  CHECK(to_hex(hash.finish()) == sha256_hex(image.rgb.data(), image.rgb.size()));
}
