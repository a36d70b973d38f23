#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <vector>

#include "base/error.h"

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace l4::emulation {

#ifdef __x86_64__

// Saves what the calling convention lets a function keep: rbx, rbp, r12 to r15, and the stack pointer.
asm(R"(
.text
.globl l4_emulation_switch
.type l4_emulation_switch, @function
l4_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size l4_emulation_switch, . - l4_emulation_switch
)");
extern "C" void l4_emulation_switch(void** save, void* load);

void switch_stack(void** save, void* load) {
  l4_emulation_switch(save, load);
}

void* prepare_stack(void* stack, size_t stack_bytes, void (*entry)()) {
  auto top = reinterpret_cast<uintptr_t>(stack) + stack_bytes;
  auto words = reinterpret_cast<void**>(top / 16 * 16);
  *--words = nullptr;  // the entry's return address, never used; with it the stack is aligned as after a call
  *--words = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--words = nullptr;
  return words;
}

#else

void switch_stack(void** save, void* load) {
  ucontext_t here;
  *save = &here;
  swapcontext(&here, static_cast<ucontext_t*>(load));
}

void* prepare_stack(void* stack, size_t stack_bytes, void (*entry)()) {
  auto context = static_cast<ucontext_t*>(stack);  // at the far end of the stack
  getcontext(context);
  context->uc_stack.ss_sp = context + 1;
  context->uc_stack.ss_size = stack_bytes - sizeof(ucontext_t);
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}

#endif

namespace {

constexpr size_t kGuardBytes = 4096;

struct Stacks {
  std::vector<void*> mapped;
  ~Stacks() {
    for (void* p : mapped) munmap(p, kStackBytes + kGuardBytes);
  }
};
thread_local Stacks t_stacks;

}  // namespace

void* stack_of_fiber(size_t number) {
  std::vector<void*>& mapped = t_stacks.mapped;
  while (mapped.size() <= number) {
    void* p = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    L4_CHECK(p != MAP_FAILED, "no memory for the stacks of emulated threads");
    mprotect(p, kGuardBytes, PROT_NONE);
    mapped.push_back(p);
  }
  return static_cast<char*>(mapped[number]) + kGuardBytes;
}

}  // namespace l4::emulation
