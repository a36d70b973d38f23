#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/map_guard.h"

namespace l4 {

namespace {
struct FileDescriptor {
  int fd;
  ~FileDescriptor() {
    if (fd >= 0) ::close(fd);
  }
};

FileDescriptor open_regular(const fs::path& path, struct stat& info) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO would wait for whoever writes it
  if (fd < 0) fail(ErrorKind::io, path.string(), ": cannot open: ", std::strerror(errno));
  FileDescriptor file{fd};
  if (::fstat(fd, &info) != 0) fail(ErrorKind::io, path.string(), ": cannot stat: ", std::strerror(errno));
  if (!S_ISREG(info.st_mode)) fail(ErrorKind::io, path.string(), ": not a regular file");
  return FileDescriptor{std::exchange(file.fd, -1)};
}
}  // namespace

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  struct stat info {};
  FileDescriptor file = open_regular(path, info);
  size_ = size_t(info.st_size);
  if (size_ > 0) {  // mmap refuses empty files
    void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (data == MAP_FAILED) fail(ErrorKind::io, path.string(), ": cannot map: ", std::strerror(errno));
    data_ = data;
    watch_ = watch_map(data_, size_, path.string());
  }
  fd_ = std::exchange(file.fd, -1);
}

MappedFile::~MappedFile() {
  unwatch_map(watch_);
  if (data_) ::munmap(data_, size_);
  if (fd_ >= 0) ::close(fd_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      watch_(std::exchange(other.watch_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(watch_, other.watch_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

uint64_t MappedFile::size_now() const {
  struct stat info {};
  if (::fstat(fd_, &info) != 0) fail(ErrorKind::io, path_.string(), ": cannot stat: ", std::strerror(errno));
  return uint64_t(info.st_size);
}

void MappedFile::read_at(uint64_t offset, std::span<std::byte> out) const {
  for (size_t done = 0; done < out.size();) {
    ssize_t n = ::pread(fd_, out.data() + done, out.size() - done, off_t(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(ErrorKind::io, path_.string(), ": cannot read: ", std::strerror(errno));
    if (n == 0)
      fail_input(path_.string(), ": ends at byte ", offset + done, ", expected ", offset + out.size(), " bytes");
    done += size_t(n);
  }
}

std::string read_file(const fs::path& path, uint64_t max_bytes) {
  struct stat info {};
  FileDescriptor file = open_regular(path, info);
  if (uint64_t(info.st_size) > max_bytes)
    fail_input(path.string(), ": ", human_bytes(uint64_t(info.st_size)), " is more than the limit of ",
               human_bytes(max_bytes));
  std::string content(size_t(info.st_size), '\0');
  size_t done = 0;
  while (done < content.size()) {
    ssize_t n = ::read(file.fd, content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(ErrorKind::io, path.string(), ": cannot read: ", std::strerror(errno));
    if (n == 0) break;  // the file shrank while it was read
    done += size_t(n);
  }
  content.resize(done);
  return content;
}

AtomicFile::AtomicFile(const fs::path& path) : path_(path) {
  // Through a symbolic link to the file it names; a device or pipe must not be replaced by a file.
  std::error_code ec;
  if (fs::is_symlink(path_, ec)) path_ = fs::weakly_canonical(path_, ec);
  const fs::file_status target = fs::status(path_, ec);
  if (fs::exists(target) && !fs::is_regular_file(target))
    fail(ErrorKind::io, path.string(), ": cannot write: not a regular file");
  temporary_ = path_;
  temporary_ += cat(".tmp", ::getpid());
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail(ErrorKind::io, path.string(), ": cannot create: ", std::strerror(errno));
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::give_up(const char* what) {
  fail(ErrorKind::io, path_.string(), ": cannot ", what, ": ", std::strerror(errno));
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  for (size_t done = 0; done < bytes.size();) {
    ssize_t n = ::write(fd_, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) give_up("write");
    done += size_t(n);
  }
}

void AtomicFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  for (size_t done = 0; done < bytes.size();) {
    ssize_t n = ::pwrite(fd_, bytes.data() + done, bytes.size() - done, off_t(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) give_up("write");
    done += size_t(n);
  }
}

void AtomicFile::commit() {
  if (::fsync(fd_) != 0) give_up("sync");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) give_up("rename");
  ::close(std::exchange(fd_, -1));
}

void write_file_atomic(const fs::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

}  // namespace l4
