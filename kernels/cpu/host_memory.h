#pragma once

#include "ops/backend.h"

namespace l4::cpu {

// This machine's memory, or this control group's where that is less.
MemoryInfo host_memory();

// host_buffer, in huge pages where the system gives them and it is worth it: weights are read from end to end each
// step.
Buffer huge_buffer(size_t bytes, const char* what);

}  // namespace l4::cpu
