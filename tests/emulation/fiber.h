// Stacks that a thread of the host switches between.
#pragma once

#include <cstddef>

namespace l4::emulation {

// Goes on where `load` was saved; returns when somebody switches to what was put into *save.
void switch_stack(void** save, void* load);
// What to switch to for a fresh call of `entry`, which must never return, on this stack.
void* prepare_stack(void* stack, size_t stack_bytes, void (*entry)());

// n stacks of this OS thread with a page below each that may not be touched; kept until the thread ends.
void* stack_of_fiber(size_t number);
constexpr size_t kStackBytes = 256 << 10;

}  // namespace l4::emulation
