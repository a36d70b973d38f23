// Registers moved between warpgroups: a producer gives some up, consumers take them. kRegisters a thread, a multiple of
// 8 in [24, 256]; all warps of a warpgroup say it, in a kernel with __launch_bounds__(threads, 1).
#pragma once

namespace l4::cuda {

template <int kRegisters>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace l4::cuda
