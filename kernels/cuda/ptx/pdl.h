// Programmatic dependent launch (Launch::programmatic): a kernel that starts while its predecessor still runs.
#pragma once

namespace l4::cuda {

// griddepcontrol.wait: until all blocks of the preceding kernel have ended and their writes can be seen. At once in a
// launch that is not programmatic. What a kernel may read before it: launch.h. It may write no device memory that the
// predecessor may still read.
__device__ inline void wait_for_predecessor() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

// griddepcontrol.launch_dependents: once every block has said so or ended, the next kernel may start (it still waits
// for our end in its wait_for_predecessor()). After our own wait, unless launch.h names the kernel as an early one.
// Early is good where the successor has weights to fetch, and as long as its blocks do not take the place of ours.
__device__ inline void let_successor_start() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

}  // namespace l4::cuda
