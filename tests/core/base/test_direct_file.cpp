#include "base/direct_file.h"

#include <fcntl.h>

#include <cstdlib>
#include <memory>
#include <vector>

#include "support/test.h"

using namespace l4;
using namespace l4::test;

namespace {

struct Aligned {
  explicit Aligned(size_t bytes) : size((bytes + 4095) / 4096 * 4096 + 2 * DirectFile::kAlign) {
    data.reset(static_cast<std::byte*>(std::aligned_alloc(DirectFile::kAlign, size)));
  }
  std::span<std::byte> bytes() { return {data.get(), size}; }
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  size_t size;
  std::unique_ptr<std::byte, Free> data;
};

std::vector<std::byte> numbers(size_t n) {
  std::vector<std::byte> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = std::byte((i * 2654435761u) >> 13);
  return out;
}

}  // namespace

TEST_CASE("direct file: any range of a file, in the page cache or not") {
  TempDir dir;
  const std::vector<std::byte> want = numbers(300'001);
  AtomicFile out(dir / "f");
  out.write(want);
  out.commit();
  const MappedFile mapped(dir / "f");
  const DirectFile file(mapped);
  for (auto [offset, n] :
       {std::pair<size_t, size_t>{0, 1}, {0, 300'001}, {4095, 2}, {4096, 4096}, {8191, 100'000}, {300'000, 1}}) {
    for (bool cached : {false, true}) {
      if (!cached) ::posix_fadvise(mapped.descriptor(), 0, 0, POSIX_FADV_DONTNEED);
      Aligned buffer(n);
      const std::byte* got = file.read(offset, n, buffer.bytes());
      CHECK(std::equal(got, got + n, want.begin() + std::ptrdiff_t(offset)));
    }
  }
}

TEST_CASE("direct file: runs of a matrix's columns") {
  TempDir dir;
  const std::vector<std::byte> want = numbers(100'000);
  AtomicFile out(dir / "f");
  out.write(want);
  out.commit();
  const MappedFile mapped(dir / "f");
  std::vector<std::byte> got(50 * 7);
  DirectFile(mapped).read_runs(123, 7, 1000, got);
  for (size_t i = 0; i < 50; ++i)
    for (size_t j = 0; j < 7; ++j) CHECK(got[i * 7 + j] == want[123 + i * 1000 + j]);
}

TEST_CASE("direct file: a file that got shorter is one clear line") {
  TempDir dir;
  AtomicFile out(dir / "f");
  out.write(numbers(50'000));
  out.commit();
  const MappedFile mapped(dir / "f");
  const DirectFile file(mapped);
  fs::resize_file(dir / "f", 20'000);
  Aligned buffer(40'000);
  CHECK(error_of([&] { file.read(10'000, 30'000, buffer.bytes()); }) ==
        cat((dir / "f").string(), ": ends at byte 20000, expected 40000 bytes"));
  std::vector<std::byte> runs(100);
  CHECK(error_of([&] { file.read_runs(19'000, 10, 1000, runs); }).find(": ends at byte 20000") != std::string::npos);
}
