// The toolkit's bfloat16 for hosts, and what of it is for devices only.
#pragma once

#include <cuda_runtime.h>

#include_next <cuda_bf16.h>

inline __nv_bfloat16 atomicAdd(__nv_bfloat16* p, __nv_bfloat16 v) {
  unsigned short old = l4::emulation::atomic_join(reinterpret_cast<unsigned short*>(p), [=](unsigned short bits) {
    return __bfloat16_as_ushort(__hadd(__ushort_as_bfloat16(bits), v));
  });
  return __ushort_as_bfloat16(old);
}
