#include "tools/common/media/local_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "base/error.h"
#include "tools/common/media/url.h"

namespace l4::tools {

namespace {

constexpr size_t kMaxPath = 4096, kMaxDepth = 64;

struct Descriptor {
  int fd = -1;
  explicit Descriptor(int opened) : fd(opened) {}
  ~Descriptor() { reset(-1); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  void reset(int opened) {
    if (fd >= 0) ::close(fd);
    fd = opened;
  }
};

[[noreturn]] void fail_no_file() {
  fail_input("no such picture below --allowed-local-media-path (symbolic links are not followed)");
}

// What follows root and a slash in an absolute path; nothing where it does not begin so.
std::string_view below(const std::string& path, const fs::path& root) {
  std::string prefix = root.string();
  if (!prefix.ends_with('/')) prefix += '/';
  return path.starts_with(prefix) ? std::string_view(path).substr(prefix.size()) : std::string_view();
}

}  // namespace

bool is_file_url(std::string_view url) {
  return to_lower(url.substr(0, 7)) == "file://";
}

LocalFiles::LocalFiles(const fs::path& root) {
  fd_ = ::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd_ < 0) fail(ErrorKind::usage, "--allowed-local-media-path: ", root.string(), " is no directory");
  std::error_code ignored;
  given_ = fs::absolute(root).lexically_normal();
  canonical_ = fs::canonical(root, ignored);
  if (!given_.has_filename()) given_ = given_.parent_path();  // "/srv/pictures/"
}

LocalFiles::~LocalFiles() {
  ::close(fd_);
}

std::string LocalFiles::read(std::string_view url, uint64_t max_bytes) const {
  const auto refuse = [](std::string_view what) { fail(ErrorKind::usage, "not a file's address: ", what); };
  const std::string_view written = url.substr(7);
  if (written.size() > kMaxPath) refuse("it is too long");
  if (written.find_first_of("?#\\") != std::string_view::npos) refuse("it holds a ?, # or backslash (write %3F, %23)");
  const std::string path = percent_decode(written);
  if (path.find('\0') != std::string::npos) refuse("it holds a zero byte");
  if (split(path, '/').size() != split(written, '/').size()) refuse("it holds an encoded slash");

  std::string_view relative = path;
  if (path.starts_with('/')) {
    relative = below(path, given_);
    if (relative.empty()) relative = below(path, canonical_);
    if (relative.empty()) refuse("it is not below --allowed-local-media-path");
  }
  const std::vector<std::string> parts = split(relative, '/');
  if (parts.size() > kMaxDepth) refuse("it has too many parts");
  for (const std::string& part : parts)
    if (part.empty() || part == "." || part == "..") refuse("it has an empty part, . or ..");

  Descriptor at(::openat(fd_, ".", O_PATH | O_DIRECTORY | O_CLOEXEC));
  for (size_t i = 0; i + 1 < parts.size() && at.fd >= 0; ++i)
    at.reset(::openat(at.fd, parts[i].c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (at.fd < 0) fail_no_file();
  // O_NONBLOCK: a named pipe would wait for its writer.
  const Descriptor file(
      ::openat(at.fd, parts.back().c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat status {};
  if (file.fd < 0 || ::fstat(file.fd, &status) != 0 || !S_ISREG(status.st_mode)) fail_no_file();

  // One byte more than may be: the file may grow while it is read.
  std::string bytes;
  const auto too_large = [&] { fail_input("over the limit of ", human_bytes(max_bytes), " for an image"); };
  if (uint64_t(status.st_size) > max_bytes) too_large();
  bytes.resize(size_t(status.st_size) + 1);
  size_t n_read = 0;
  for (;;) {
    const ssize_t n = ::read(file.fd, bytes.data() + n_read, bytes.size() - n_read);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_no_file();
    n_read += size_t(n);
    if (n == 0) break;
    if (n_read > max_bytes) too_large();
    if (n_read == bytes.size()) bytes.resize(2 * bytes.size());
  }
  bytes.resize(n_read);
  return bytes;
}

}  // namespace l4::tools
