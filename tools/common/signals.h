// Ctrl+C and requests to end, as data: handlers only count and wake whoever waits on wake_fd().
#pragma once

#include "base/file.h"

namespace l4::tools {

// Takes over SIGINT, SIGTERM, SIGHUP, SIGWINCH and SIGCONT; SIGPIPE becomes a failed write.
void install_signal_handlers();

// While it lives, Ctrl+C ends the process at once with status 130 (a request to end: 128 + its number), whatever the
// program is doing (loading a model, waiting for input). So does one that came before and was not looked at.
class EndAtInterrupt {
 public:
  EndAtInterrupt();
  ~EndAtInterrupt();
  EndAtInterrupt(const EndAtInterrupt&) = delete;
  EndAtInterrupt& operator=(const EndAtInterrupt&) = delete;
};

// While it lives, such an end removes this file.
class RemoveAtInterrupt {
 public:
  explicit RemoveAtInterrupt(const fs::path& path);
  ~RemoveAtInterrupt();
  RemoveAtInterrupt(const RemoveAtInterrupt&) = delete;
  RemoveAtInterrupt& operator=(const RemoveAtInterrupt&) = delete;
};

int take_interrupts();       // how often Ctrl+C came since the last call
int asked_to_end();          // SIGTERM or SIGHUP when one came, else 0
bool take_window_changed();  // since the last call
bool take_continued();       // back from Ctrl+Z, since the last call
int wake_fd();               // readable once a signal came; drain_wake_fd() before looking at the above
void drain_wake_fd();

// While it lives, what is typed on the terminal is not shown; it waits for the next line that is read.
class NoEcho {
 public:
  NoEcho();
  ~NoEcho();
  NoEcho(const NoEcho&) = delete;
  NoEcho& operator=(const NoEcho&) = delete;
};

// Ends the process here, without waiting for a step of the model that still runs.
[[noreturn]] void end_now(int status);

}  // namespace l4::tools
