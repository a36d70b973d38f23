#include "base/direct_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"

namespace l4 {

DirectFile::DirectFile(const MappedFile& file) : file_(file) {
#if defined(O_DIRECT)
  // The same file whatever its name has become since.
  const std::string self = cat("/proc/self/fd/", file.descriptor());
  fd_ = ::open(self.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
#endif
  direct_ = fd_ >= 0;
}

DirectFile::~DirectFile() {
  if (fd_ >= 0) ::close(fd_);
}

// Reads up to out.size() bytes from `begin`, at least `needed` of them. False: not this way.
bool DirectFile::read_direct(uint64_t begin, std::span<std::byte> out, size_t needed) const {
  for (size_t done = 0; done < needed;) {
    const ssize_t n = ::pread(fd_, out.data() + done, out.size() - done, off_t(begin + done));
    if (n < 0 && errno == EINTR) continue;
    // Refused (a file system may find out only now), the file's end, or a part that leaves us unaligned: read_at()
    // says.
    if (n <= 0 || (size_t(n) % kAlign != 0 && done + size_t(n) < needed)) return false;
    done += size_t(n);
  }
  return true;
}

std::byte* DirectFile::read(uint64_t offset, size_t n, std::span<std::byte> buffer) const {
  L4_CHECK(buffer.size() >= n + 2 * kAlign && reinterpret_cast<uintptr_t>(buffer.data()) % kAlign == 0);
  if (direct_ && !mostly_cached(offset, n)) {
    const uint64_t begin = offset / kAlign * kAlign, end = (offset + n + kAlign - 1) / kAlign * kAlign;
    if (read_direct(begin, buffer.first(size_t(end - begin)), size_t(offset + n - begin)))
      return buffer.data() + (offset - begin);
    direct_ = false;
  }
  file_.read_at(offset, buffer.first(n));
  return buffer.data();
}

void DirectFile::read_runs(uint64_t offset, size_t run, uint64_t stride, std::span<std::byte> out) const {
  const size_t n_runs = out.size() / run;
  L4_CHECK(n_runs > 0 && out.size() % run == 0 && stride >= run);
  ::posix_fadvise(file_.descriptor(), off_t(offset), off_t((n_runs - 1) * stride + run), POSIX_FADV_WILLNEED);
  for (size_t i = 0; i < n_runs; ++i) file_.read_at(offset + i * stride, out.subspan(i * run, run));
}

// By the map's pages. Where the system does not tell, it says yes, and the read is an ordinary one.
bool DirectFile::mostly_cached(uint64_t offset, size_t n) const {
  const size_t page = size_t(::sysconf(_SC_PAGESIZE));
  const uint64_t begin = offset / page * page, end = std::min<uint64_t>(offset + n, file_.size());
  if (begin >= end) return false;
  std::vector<unsigned char> pages((end - begin + page - 1) / page);
  void* map = const_cast<std::byte*>(file_.bytes().data()) + begin;
  if (::mincore(map, end - begin, pages.data()) != 0) return false;
  const auto there = std::count_if(pages.begin(), pages.end(), [](unsigned char p) { return p & 1; });
  return size_t(there) * 2 > pages.size();
}

}  // namespace l4
