#include "kernels/cpu/host_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>

#include "base/strings.h"

namespace l4::cpu {

namespace {
// The number on the line "key: n kB" of /proc/meminfo, in bytes.
uint64_t meminfo(std::string_view key) {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);)
    if (line.rfind(cat(key, ":"), 0) == 0) {
      std::string_view rest = std::string_view(line).substr(key.size() + 1);
      if (rest.ends_with(" kB")) rest.remove_suffix(3);
      return uint64_t(parse_int(trim(rest)).value_or(0)) * 1024;
    }
  return 0;
}

// A file that holds one number; nothing when there is no such file or it says "max".
std::optional<uint64_t> number_in(const char* path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  std::optional<int64_t> n = parse_int(trim(line));
  return n && *n >= 0 ? std::optional<uint64_t>(*n) : std::nullopt;
}
}  // namespace

MemoryInfo host_memory() {
  MemoryInfo info{.total_bytes = uint64_t(sysconf(_SC_PHYS_PAGES)) * uint64_t(sysconf(_SC_PAGE_SIZE)),
                  .free_bytes = meminfo("MemAvailable")};
  if (info.free_bytes == 0) info.free_bytes = info.total_bytes;  // no such file here
  auto limit = number_in("/sys/fs/cgroup/memory.max"), used = number_in("/sys/fs/cgroup/memory.current");
  if (limit && *limit < info.total_bytes) {
    info.total_bytes = *limit;
    info.free_bytes = std::min(info.free_bytes, *limit - std::min(*limit, used.value_or(0)));
  }
  return info;
}

Buffer huge_buffer(size_t bytes, const char* what) {
#if defined(MADV_HUGEPAGE)
  constexpr size_t kHugePage = size_t(2) << 20;
  if (bytes >= 4 * kHugePage) {
    const size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    if (void* data = std::aligned_alloc(kHugePage, rounded)) {
      madvise(data, rounded, MADV_HUGEPAGE);  // a wish: what it says does not matter
      return Buffer(data, bytes, [](void* p) { std::free(p); });
    }
  }
#endif
  return host_buffer(bytes, what);
}

}  // namespace l4::cpu
