#include "tools/run/batch_journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <vector>

#include "base/error.h"

namespace l4::run {

// Entries are "17<tab>final<tab>{...}" or "17<tab>again<tab>{...}".
constexpr std::string_view kFinal = "final", kAgain = "again";

BatchJournal::BatchJournal(const fs::path& output, const std::string& input_id, int fd)
    : output_(output), path_(output.string() + ".partial"), head_(cat("l4 batch of ", input_id, "\n")), fd_(fd) {}

BatchJournal::BatchJournal(const fs::path& output, const std::string& input_id) : BatchJournal(output, input_id, -1) {
  // From here on the destructor runs, whatever is thrown.
  if (fs::exists(output) && !fs::exists(path_))
    fail(ErrorKind::usage, output.string(), " is there already: a finished batch is not done again");
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) give_up("cannot be written");
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0)
    fail(ErrorKind::io, path_.string(), ": another process is at work on this batch");
  begin_file();
  read_entries();
}

BatchJournal::~BatchJournal() {
  if (fd_ >= 0) ::close(fd_);
}

void BatchJournal::give_up(const char* what) const {
  fail(ErrorKind::io, path_.string(), ": ", what, ": ", std::strerror(errno));
}

void BatchJournal::begin_file() {
  std::string found(head_.size(), '\0');
  const ssize_t n = ::pread(fd_, found.data(), found.size(), 0);
  if (n < 0) give_up("cannot be read");
  found.resize(size_t(n));
  if (found == head_) {
    end_ = head_.size();
    return;
  }
  if (found.ends_with('\n') || !head_.starts_with(found))
    fail(ErrorKind::usage, path_.string(), ": belongs to another input, or is none of ours; remove it to begin anew");
  if (::ftruncate(fd_, 0) != 0) give_up("cannot be written");  // empty, or killed while its first line was written
  append(head_);
}

void BatchJournal::read_entries() {
  std::ifstream in(path_, std::ios::binary);
  in.seekg(std::streamoff(end_));
  for (std::string line; std::getline(in, line);) {
    if (in.eof()) break;  // no line feed: half-written
    const size_t first = line.find('\t'), second = first == line.npos ? line.npos : line.find('\t', first + 1);
    const uint64_t begin = end_;
    end_ += line.size() + 1;
    if (second == line.npos) continue;
    const std::optional<int64_t> number = parse_int(std::string_view(line).substr(0, first));
    const std::string_view kind = std::string_view(line).substr(first + 1, second - first - 1);
    if (!number || (kind != kFinal && kind != kAgain) || !line.ends_with('}')) continue;  // asked again
    const Entry entry{begin + second + 1, line.size() - second - 1, kind == kFinal};
    n_final_ += entry.final - lines_[*number].final;
    lines_[*number] = entry;
  }
  if (::ftruncate(fd_, off_t(end_)) != 0) give_up("cannot be written");
}

void BatchJournal::append(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const ssize_t n = ::pwrite(fd_, text.data() + at, text.size() - at, off_t(end_ + at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) give_up("cannot be written");
    at += size_t(n);
  }
  end_ += text.size();
}

void BatchJournal::add(int64_t line, std::string_view answer, bool final) {
  L4_CHECK(answer.ends_with('}') && answer.find('\n') == answer.npos);
  const std::string before = cat(line, "\t", final ? kFinal : kAgain, "\t");
  const std::lock_guard lock(mutex_);
  const Entry entry{end_ + before.size(), answer.size(), final};
  append(cat(before, answer, "\n"));
  n_final_ += entry.final - lines_[line].final;
  lines_[line] = entry;
}

bool BatchJournal::has_final(int64_t line) const {
  const std::lock_guard lock(mutex_);
  const auto it = lines_.find(line);
  return it != lines_.end() && it->second.final;
}

int64_t BatchJournal::n_final() const {
  const std::lock_guard lock(mutex_);
  return n_final_;
}

void BatchJournal::finish() {
  const std::lock_guard lock(mutex_);
  AtomicFile out(output_);
  for (const auto& [number, entry] : lines_) {
    std::string answer(entry.size + 1, '\n');  // with its line feed
    for (size_t at = 0; at < entry.size;) {
      const ssize_t n = ::pread(fd_, answer.data() + at, entry.size - at, off_t(entry.offset + at));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) give_up("cannot be read");
      at += size_t(n);
    }
    out.write(answer);
  }
  out.commit();
  std::error_code ignored;
  fs::remove(path_, ignored);  // what is left of it would only be done again
}

}  // namespace l4::run
