// The border between the host code of the CPU and its kernels, which are compiled once for every
// instruction set. No torch and no standard library below: see baseline.cpp for why.
#pragma once

#include "../hawkes_attention.h"

namespace emorec {

// What one call of a kernel works on. The forward takes any rows of a sequence, the backward whole
// sequences.
struct Task {
  int64_t sequence;
  int64_t first_row;  // within the sequence
  int64_t last_row;   // exclusive
};

// The kernels of one instruction set. Scratch is aligned to 64 bytes and of scratch_bytes(params, n,
// backward) for sequences of up to n tokens; its contents do not matter. far_field allows sums over
// distant keys in closed form.
struct Kernels {
  const char* name;
  int64_t (*scratch_bytes)(const HawkesForwardParams&, int64_t length, bool backward);
  void (*forward)(const HawkesForwardParams&, Task, char* scratch, bool far_field);
  void (*backward)(const HawkesBackwardParams&, Task, char* scratch, bool far_field);
};

extern const Kernels kBaselineKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

}  // namespace emorec
