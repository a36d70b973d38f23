#pragma once

#include "ops/backend.h"

namespace l4::cpu {

// This machine's memory, or this control group's where that is less.
MemoryInfo host_memory();

}  // namespace l4::cpu
