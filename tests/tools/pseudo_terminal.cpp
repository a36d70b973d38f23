#include "tools/pseudo_terminal.h"

#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <stdexcept>

namespace l4::test {

namespace {
constexpr int kPatienceMs = 40'000;
}

PseudoTerminal::PseudoTerminal(const std::vector<std::string>& command, const std::vector<std::string>& env) {
  winsize size{};
  size.ws_row = 40;
  size.ws_col = 100;
  std::vector<std::string> words = command;
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_ = forkpty(&fd_, nullptr, nullptr, &size);
  if (pid_ < 0) throw std::runtime_error("no pseudo-terminal");
  if (pid_ > 0) return;
  setenv("TERM", "xterm", 1);
  unsetenv("NO_COLOR");
  for (const std::string& entry : env) {
    const size_t equals = entry.find('=');
    if (equals == std::string::npos)
      unsetenv(entry.c_str());
    else
      setenv(entry.substr(0, equals).c_str(), entry.substr(equals + 1).c_str(), 1);
  }
  execvp(argv[0], argv.data());
  _exit(127);
}

PseudoTerminal::~PseudoTerminal() {
  if (status_ < 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(fd_);
}

void PseudoTerminal::type(const std::string& keys) {
  if (write(fd_, keys.data(), keys.size()) != ssize_t(keys.size())) throw std::runtime_error("cannot type");
}

void PseudoTerminal::signal(int number) {
  kill(pid_, number);
}

bool PseudoTerminal::read_more() {
  pollfd waiting{fd_, POLLIN, 0};
  if (poll(&waiting, 1, 1000) <= 0) return false;
  char bytes[4096];
  const ssize_t n = read(fd_, bytes, sizeof bytes);
  if (n > 0) screen_.append(bytes, size_t(n));
  return n > 0;
}

bool PseudoTerminal::wait_for(const std::string& text) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(kPatienceMs);
  for (;;) {
    if (const size_t at = screen_.find(text, seen_); at != std::string::npos) {
      seen_ = at + text.size();
      return true;
    }
    if (std::chrono::steady_clock::now() > end) return false;
    siginfo_t ended{};
    if (!read_more() && waitid(P_PID, id_t(pid_), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid == pid_)
      return false;
  }
}

int PseudoTerminal::wait() {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(kPatienceMs);
  while (status_ < 0 && std::chrono::steady_clock::now() < end) {
    int status = 0;
    if (!read_more() && waitpid(pid_, &status, WNOHANG) == pid_)
      status_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }
  return status_;
}

bool PseudoTerminal::echoes() const {
  termios modes{};
  return tcgetattr(fd_, &modes) == 0 && (modes.c_lflag & ECHO) && (modes.c_lflag & ICANON);
}

}  // namespace l4::test
