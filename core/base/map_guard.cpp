#include "base/map_guard.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>

namespace l4 {

namespace {

// The handler may run at any time in any thread: it takes no lock, allocates nothing, and reads a slot only while
// `begin` is set, which happens last and is undone first.
struct Slot {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  char path[1024] = {};
};
constexpr int kSlots = 256;  // shards of a checkpoint: 84 are the most that is known
Slot g_slots[kSlots];
std::mutex g_mutex;  // between watchers only
struct sigaction g_previous;

void say(const char* text) {
  [[maybe_unused]] ssize_t ignored = ::write(STDERR_FILENO, text, std::strlen(text));
}

void on_bus_error(int signal, siginfo_t* info, void*) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const Slot& slot : g_slots) {
    const uintptr_t begin = slot.begin.load();
    if (begin == 0 || address < begin || address >= slot.end.load()) continue;
    say("l4: ");
    say(slot.path);
    say(": cannot read the mapped file any more: it got shorter while it was in use, or its disk failed\n");
    ::_exit(1);
  }
  ::sigaction(signal, &g_previous, nullptr);  // not ours: returning repeats the access under the previous handler
}

void install() {
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, &g_previous);
}

}  // namespace

int watch_map(const void* begin, size_t bytes, const std::string& path) {
  static std::once_flag installed;
  std::call_once(installed, install);
  std::lock_guard lock(g_mutex);
  for (int i = 0; i < kSlots; ++i) {
    Slot& slot = g_slots[i];
    if (slot.begin.load() != 0) continue;
    std::strncpy(slot.path, path.c_str(), sizeof slot.path - 1);
    slot.end.store(reinterpret_cast<uintptr_t>(begin) + bytes);
    slot.begin.store(reinterpret_cast<uintptr_t>(begin));
    return i;
  }
  return -1;
}

void unwatch_map(int ticket) {
  if (ticket >= 0) g_slots[ticket].begin.store(0);
}

}  // namespace l4
