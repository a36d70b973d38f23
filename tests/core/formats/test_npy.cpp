#include "formats/npy.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "support/test.h"

using namespace l4;
using l4::test::error_of;
using l4::test::TempDir;

TEST_CASE("npy: the bytes are those of the format's description") {
  TempDir dir;
  write_npy(dir / "a.npy", std::vector<float>{1, 2, 3, 4, 5, 6}, 2, 3);
  std::string bytes = read_file(dir / "a.npy", 1 << 20);
  REQUIRE(bytes.size() == 128 + 24);
  CHECK(bytes.substr(0, 8) == std::string("\x93NUMPY\x01\x00", 8));
  CHECK(bytes.substr(8, 2) == std::string("\x76\x00", 2));  // 118 = 128 - 10
  std::string text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
  CHECK(bytes.substr(10, 117) == text + std::string(117 - text.size(), ' '));
  CHECK(bytes[127] == '\n');
  float last;
  std::memcpy(&last, bytes.data() + 128 + 20, 4);
  CHECK(last == 6);
}

TEST_CASE("npy: rows appended one by one come back, special values too") {
  TempDir dir;
  const float inf = std::numeric_limits<float>::infinity();
  {
    NpyWriter out(dir / "a.npy", 3);
    out.append(std::vector<float>{1, -inf, 1e-45f});
    out.append(std::vector<float>{});
    out.append(std::vector<float>{std::nanf(""), -0.0f, 3, 4, 5, 6});
    CHECK(out.rows() == 3);
    CHECK_FALSE(fs::exists(dir / "a.npy"));
    CHECK(error_of([&] { out.append(std::vector<float>{1}); }).find("1 values in rows of 3") != std::string::npos);
    out.finish();
  }
  NpyMatrix m = read_npy(dir / "a.npy");
  CHECK(m.rows == 3);
  CHECK(m.cols == 3);
  CHECK(m.values[1] == -inf);
  CHECK(m.values[2] == 1e-45f);
  CHECK(std::isnan(m.values[3]));
  CHECK(std::signbit(m.values[4]));
  CHECK(m.values[8] == 6);
  { NpyWriter unfinished(dir / "b.npy", 3); }
  CHECK_FALSE(fs::exists(dir / "b.npy"));
}

TEST_CASE("npy: damaged files are refused by name") {
  TempDir dir;
  const fs::path path = dir / "a.npy";
  write_npy(path, std::vector<float>{1, 2, 3, 4, 5, 6}, 2, 3);
  const std::string good = read_file(path, 1 << 20);
  auto replaced = [&](const std::string& what, const std::string& by) {
    std::string out = good;
    return out.replace(out.find(what), what.size(), by);
  };
  const std::vector<std::string> bad = {
      "",
      "\x93NUMPY",
      good.substr(0, 9),
      good.substr(0, 100),
      good.substr(0, good.size() - 1),
      good.substr(0, good.size() - 4),
      good + "1234",
      replaced("<f4", "<f8"),
      replaced("\x01", "\x02"),
      replaced("False", "True "),
      replaced("(2, 3)", "(6,)  "),
      replaced("(2, 3), }", "(-2, 3),}"),
      replaced("(2, 3), }  ", "(-2, -3), }"),
      replaced("(2, 3), }                              ", "(9223372036854775807, 9223372036854775)"),
      replaced("'shape'", "'shepa'")};
  for (const std::string& bytes : bad) {
    write_file_atomic(path, bytes);
    INFO(bytes.substr(0, 100));
    CHECK(error_of([&] { read_npy(path); }).rfind(path.string() + ": ", 0) == 0);
  }
}
