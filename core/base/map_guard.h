// Mapped files that lose bytes while they are in use: the system answers a read of such a byte with SIGBUS, which no
// code can turn into an exception. This turns it into one line and exit code 1: "l4: PATH: ... got shorter ..." instead
// of "Bus error". Any other SIGBUS goes to whoever handled it before.
#pragma once

#include <cstddef>
#include <string>

namespace l4 {

// Watches [begin, begin + bytes) until unwatch(); `path` goes into the line. Returns a ticket, -1 when there are too
// many maps to watch (the process then dies of SIGBUS as it would without).
int watch_map(const void* begin, size_t bytes, const std::string& path);
void unwatch_map(int ticket);

}  // namespace l4
