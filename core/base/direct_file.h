// Large reads of a file that is opened already: past the page cache where the file system takes that (O_DIRECT) and the
// bytes are not in it yet, so that a checkpoint is read at the disk's speed and costs no memory; otherwise as any file.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/file.h"

namespace l4 {

class DirectFile {
 public:
  static constexpr size_t kAlign = 4096;  // of the buffer, and how much more than the bytes it has to hold, twice

  explicit DirectFile(const MappedFile& file);  // which must live as long
  ~DirectFile();
  DirectFile(const DirectFile&) = delete;
  DirectFile& operator=(const DirectFile&) = delete;

  // Bytes [offset, offset + n) to somewhere in `buffer`, which is aligned and has room for n + 2 * kAlign; returns
  // where. Any number of threads at once. Error{io}, Error{input} where the file ends before that.
  std::byte* read(uint64_t offset, size_t n, std::span<std::byte> buffer) const;
  // Runs of `run` bytes, the first at offset, each `stride` after the one before, to one another's end in `out`. The
  // system is asked to fetch what lies between them too: other ranks want it.
  void read_runs(uint64_t offset, size_t run, uint64_t stride, std::span<std::byte> out) const;

 private:
  bool mostly_cached(uint64_t offset, size_t n) const;
  bool read_direct(uint64_t begin, std::span<std::byte> out, size_t needed) const;

  const MappedFile& file_;
  int fd_ = -1;
  mutable std::atomic<bool> direct_{false};
};

}  // namespace l4
