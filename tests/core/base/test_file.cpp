#include "base/file.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/capture.h"
#include "support/test.h"

using namespace l4;
using l4::test::error_of;
using l4::test::TempDir;

TEST_CASE("file: written whole, read and mapped") {
  TempDir dir;
  write_file_atomic(dir / "f", "hello");
  CHECK(read_file(dir / "f", 5) == "hello");
  CHECK(error_of([&] { read_file(dir / "f", 4); }) == (dir / "f").string() + ": 5 B is more than the limit of 4 B");
  MappedFile file(dir / "f");
  CHECK(file.size() == 5);
  CHECK(char(file.bytes()[4]) == 'o');
  std::byte two[2];
  file.read_at(3, two);
  CHECK(char(two[1]) == 'o');
  CHECK(error_of([&] { file.read_at(4, two); }) == (dir / "f").string() + ": ends at byte 5, expected 6 bytes");
  MappedFile moved = std::move(file);
  CHECK(char(moved.bytes()[0]) == 'h');
  CHECK(moved.size_now() == 5);
  write_file_atomic(dir / "empty", "");
  CHECK(MappedFile(dir / "empty").bytes().empty());
}

TEST_CASE("file: an open map keeps the old file when a new one takes its name") {
  TempDir dir;
  write_file_atomic(dir / "f", "old");
  MappedFile file(dir / "f");
  write_file_atomic(dir / "f", "newer");
  CHECK(file.size_now() == 3);
  CHECK(char(file.bytes()[0]) == 'o');
}

TEST_CASE("file: an atomic file appears at commit or not at all") {
  TempDir dir;
  {
    AtomicFile file(dir / "f");
    file.write("abc");
    file.write_at(1, std::as_bytes(std::span("X", 1)));
    CHECK_FALSE(fs::exists(dir / "f"));
    file.commit();
    CHECK(read_file(dir / "f", 100) == "aXc");
  }
  {
    AtomicFile file(dir / "f");
    file.write("never seen");
  }
  CHECK(read_file(dir / "f", 100) == "aXc");
  CHECK(std::distance(fs::directory_iterator(dir.path()), {}) == 1);
}

TEST_CASE("file: reading what a mapped file has lost ends the process with one line") {
  TempDir dir;
  write_file_atomic(dir / "f", std::string(100'000, 'x'));
  write_file_atomic(dir / "other", "y");
  int status = 0;
  std::string line = l4::test::stderr_of([&] {
    pid_t child = fork();
    if (child == 0) {
      MappedFile other(dir / "other"), file(dir / "f");
      MappedFile moved = std::move(file);
      { MappedFile gone(dir / "other"); }
      if (truncate((dir / "f").c_str(), 10) != 0) _exit(3);
      volatile std::byte lost = moved.bytes()[50'000];
      _exit(lost == std::byte('x') ? 4 : 5);
    }
    waitpid(child, &status, 0);
  });
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 1);
  CHECK(line == "l4: " + (dir / "f").string() +
                    ": cannot read the mapped file any more: it got shorter while it was in use, or its disk failed\n");
}

TEST_CASE("file: a written file goes where a symbolic link points, and never in a device's or pipe's place") {
  TempDir dir;
  write_file_atomic(dir / "real", "old");
  fs::create_symlink("real", dir / "link");
  write_file_atomic(dir / "link", "new");
  CHECK(fs::is_symlink(dir / "link"));
  CHECK(read_file(dir / "real", 10) == "new");
  REQUIRE(::mkfifo((dir / "pipe").c_str(), 0600) == 0);
  CHECK(error_of([&] { write_file_atomic(dir / "pipe", "x"); }) ==
        cat((dir / "pipe").string(), ": cannot write: not a regular file"));
  CHECK(fs::is_fifo(dir / "pipe"));
}
