#include "tools/common/signals.h"

#include <fcntl.h>
#include <signal.h>
#include <termios.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>

#include "base/error.h"
#include "tools/common/terminal.h"

namespace l4::tools {

namespace {

std::atomic<int> g_interrupts{0}, g_end{0}, g_end_at_interrupt{0};
std::atomic<bool> g_window_changed{false}, g_continued{false};
int g_pipe[2] = {-1, -1};
bool g_clears_line = false;  // of stderr: there may be a progress bar

char g_to_remove[PATH_MAX];
std::atomic<bool> g_removes{false};

termios g_terminal;  // as it was before NoEcho
std::atomic<bool> g_echo_is_off{false};

void show_typing() {
  if (g_echo_is_off.exchange(false)) tcsetattr(STDIN_FILENO, TCSANOW, &g_terminal);
}

[[noreturn]] void end_by(int signal) {
  if (g_removes) unlink(g_to_remove);
  const char line[] = "\r\x1b[K";
  if (g_clears_line) (void)!write(STDERR_FILENO, line, sizeof line - 1);
  _exit(128 + signal);
}

// So many Ctrl+C that nobody took mean that the program is stuck, in a write to a reader that does not read, say.
constexpr int kPatience = 3;

void on_signal(int signal) {
  const int saved_errno = errno;
  const bool ends = signal == SIGINT || signal == SIGTERM || signal == SIGHUP;
  if (ends && g_end_at_interrupt > 0) end_by(signal);
  switch (signal) {
    case SIGINT:
      if (++g_interrupts > kPatience) end_by(signal);
      break;
    case SIGWINCH:
      g_window_changed = true;
      break;
    case SIGCONT:
      g_continued = true;
      break;
    default:
      if (g_end) end_by(signal);
      g_end = signal;
  }
  (void)!write(g_pipe[1], "", 1);
  errno = saved_errno;
}

}  // namespace

void install_signal_handlers() {
  if (pipe2(g_pipe, O_CLOEXEC | O_NONBLOCK) != 0) fail(ErrorKind::io, "pipe: ", std::strerror(errno));
  g_clears_line = can_redraw(stderr);
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;  // for writes, which stdio does not repeat; whoever waits for input waits in poll()
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGCONT}) sigaction(signal, &action, nullptr);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
}

EndAtInterrupt::EndAtInterrupt() {
  ++g_end_at_interrupt;
  if (g_end) end_by(g_end);
  if (g_interrupts > 0) end_by(SIGINT);
}
EndAtInterrupt::~EndAtInterrupt() {
  --g_end_at_interrupt;
}

RemoveAtInterrupt::RemoveAtInterrupt(const fs::path& path) {
  const std::string& name = path.native();
  if (name.size() >= sizeof g_to_remove) return;  // no such file can be made
  std::memcpy(g_to_remove, name.c_str(), name.size() + 1);
  g_removes = true;
}
RemoveAtInterrupt::~RemoveAtInterrupt() {
  g_removes = false;
}

int take_interrupts() {
  return g_interrupts.exchange(0);
}
int asked_to_end() {
  return g_end;
}
bool take_window_changed() {
  return g_window_changed.exchange(false);
}
bool take_continued() {
  return g_continued.exchange(false);
}
int wake_fd() {
  return g_pipe[0];
}
void drain_wake_fd() {
  char bytes[64];
  while (read(g_pipe[0], bytes, sizeof bytes) > 0) {
  }
}

NoEcho::NoEcho() {
  if (g_echo_is_off || tcgetattr(STDIN_FILENO, &g_terminal) != 0) return;
  termios quiet = g_terminal;
  quiet.c_lflag &= ~tcflag_t(ECHO | ICANON);  // Ctrl+C stays; Ctrl+D and Backspace wait like any other key
  quiet.c_cc[VMIN] = 1;
  quiet.c_cc[VTIME] = 0;
  g_echo_is_off = tcsetattr(STDIN_FILENO, TCSANOW, &quiet) == 0;
}
NoEcho::~NoEcho() {
  show_typing();
}

void end_now(int status) {
  show_typing();
  std::fflush(stdout);
  std::fflush(stderr);
  _exit(status);
}

}  // namespace l4::tools
