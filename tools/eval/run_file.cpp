#include "tools/eval/run_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/error.h"

namespace l4::eval {

namespace {

// A kill may come while the header is written: what has no whole line is as good as empty.
bool has_whole_line(const fs::path& path, int fd) {
  std::string part(1 << 16, '\0');
  for (off_t at = 0;;) {
    const ssize_t n = ::pread(fd, part.data(), part.size(), at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(ErrorKind::io, path.string(), ": cannot be read: ", std::strerror(errno));
    if (n == 0) return false;
    if (std::memchr(part.data(), '\n', size_t(n))) return true;
    at += n;
  }
}

// A process that was killed just now may hold its lock for a moment more.
bool lock(int fd) {
  for (int i = 0; ::flock(fd, LOCK_EX | LOCK_NB) != 0; ++i) {
    if (i == 40) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return true;
}

// Where two objects differ, as "settings.limit"; empty: nowhere.
std::string differing_field(const Json& a, const Json& b, const std::string& prefix) {
  const auto look = [&](const Json& from, const Json& at) -> std::string {
    for (const auto& [key, value] : from.as_object()) {
      const Json* other = at.find(key);
      if (other && value.is_object() && other->is_object()) {
        const std::string inner = differing_field(value, *other, cat(prefix, key, "."));
        if (!inner.empty()) return inner;
      } else if (!other || !(*other == value)) {
        return prefix + key;
      }
    }
    return {};
  };
  const std::string found = look(a, b);
  return found.empty() ? look(b, a) : found;
}

std::string value_at(const Json& object, const std::string& path) {
  const Json* value = &object;
  for (const std::string& key : split(path, '.'))
    if (value) value = value->find(key);
  return value ? dump_json(*value) : "nothing";
}

}  // namespace

RunWriter::RunWriter(const fs::path& path, RunStart start) : path_(path) {
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) give_up("cannot be written");
  try {
    if (!lock(fd_)) fail(ErrorKind::io, path_.string(), ": another process is at work on it");
    if (start == RunStart::anew || !has_whole_line(path_, fd_)) return;
    if (start == RunStart::fresh)
      fail(ErrorKind::usage, path_.string(), " is there already; --resume goes on with it, --force begins anew");
    found_ = read_run_file(path_);
    goes_on_ = true;
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

RunWriter::~RunWriter() {
  struct stat now {};
  if (!begun_ && ::fstat(fd_, &now) == 0 && now.st_size == 0) ::unlink(path_.c_str());
  ::close(fd_);
}

void RunWriter::give_up(const char* what) const {
  fail(ErrorKind::io, path_.string(), ": ", what, ": ", std::strerror(errno));
}

void RunWriter::check(const RunHeader& header) const {
  if (!goes_on_) return;
  RunHeader before = found_.header, now = header;
  if (now.device.empty()) before.device.clear();
  if (now.model.empty()) before.model.clear();
  const Json a = parse_json(to_line(before), path_.string()), b = parse_json(to_line(now), path_.string());
  const std::string field = differing_field(a, b, "");
  if (!field.empty())
    fail(ErrorKind::usage, path_.string(), ": belongs to another run: ", field, " is ", value_at(a, field),
         " there and ", value_at(b, field), " here; --force begins anew, another -o keeps both");
}

void RunWriter::begin(const RunHeader& header) {
  check(header);
  begun_ = true;
  end_ = goes_on_ ? found_.whole_bytes : 0;
  if (::ftruncate(fd_, off_t(end_)) != 0) give_up("cannot be written");  // a half-written line, or what was there
  if (!goes_on_) write_line(to_line(header));
}

void RunWriter::append(const Record& record) {
  L4_CHECK(begun_);
  write_line(to_line(record));
}

void RunWriter::write_line(std::string line) {
  line += '\n';
  for (size_t at = 0; at < line.size();) {
    const ssize_t n = ::pwrite(fd_, line.data() + at, line.size() - at, off_t(end_ + at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) give_up("cannot be written");
    at += size_t(n);
  }
  end_ += line.size();
}

}  // namespace l4::eval
