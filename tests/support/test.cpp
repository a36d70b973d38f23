#include "support/test.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "base/file.h"

extern char** environ;

namespace l4::test {

std::filesystem::path source_dir() {
  return L4_SOURCE_DIR;
}

std::filesystem::path binary_dir() {
  return L4_BINARY_DIR;
}

std::filesystem::path golden(const std::string& relative) {
  return source_dir() / "tests" / "golden" / relative;
}

std::filesystem::path shared_data(const std::string& relative) {
  const char* given = std::getenv("L4_SHARED");
  std::filesystem::path root = given ? std::filesystem::path(given) : source_dir().parent_path() / "shared";
  std::filesystem::path path = root / "data" / relative;
  std::error_code ec;
  if (!std::filesystem::exists(path, ec)) L4_SKIP("shared/data/" + relative + " is not here");
  return path;
}

TempDir::TempDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "l4-test-XXXXXX").string();
  if (!mkdtemp(pattern.data())) throw std::runtime_error("cannot make a temporary directory " + pattern);
  path_ = pattern;
}
TempDir::~TempDir() {
  std::error_code ec;
  std::filesystem::remove_all(path_, ec);
}

Result run(const std::vector<std::string>& command, const RunOptions& options) {
  TempDir dir;
  write_file_atomic(dir / "in", options.stdin_text);

  std::vector<std::string> words;
  if (options.timeout_s > 0) words = {"timeout", "-k", "5", std::to_string(options.timeout_s)};
  words.insert(words.end(), command.begin(), command.end());
  std::vector<std::string> variables;
  for (char** e = environ; *e; ++e) {
    const std::string entry = *e;
    const std::string name = entry.substr(0, entry.find('='));
    bool replaced = false;
    for (const std::string& given : options.env) replaced |= given.substr(0, given.find('=')) == name;
    if (!replaced) variables.push_back(entry);
  }
  for (const std::string& given : options.env)
    if (given.find('=') != std::string::npos) variables.push_back(given);
  auto pointers = [](std::vector<std::string>& texts) {
    std::vector<char*> out;
    for (std::string& text : texts) out.push_back(text.data());
    out.push_back(nullptr);
    return out;
  };

  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, (dir / "in").c_str(), O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, 1, (dir / "out").c_str(), O_WRONLY | O_CREAT, 0600);
  posix_spawn_file_actions_addopen(&files, 2, (dir / "err").c_str(), O_WRONLY | O_CREAT, 0600);
  pid_t pid = 0;
  const int error =
      posix_spawnp(&pid, words[0].c_str(), &files, nullptr, pointers(words).data(), pointers(variables).data());
  posix_spawn_file_actions_destroy(&files);
  if (error) throw std::runtime_error("cannot start " + words[0]);
  int status = 0;
  if (waitpid(pid, &status, 0) < 0) throw std::runtime_error("waitpid failed");

  Result result;
  result.status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  result.out = read_file(dir / "out", 1 << 28);
  result.err = read_file(dir / "err", 1 << 28);
  return result;
}

}  // namespace l4::test
