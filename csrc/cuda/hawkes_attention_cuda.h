// Launchers of the CUDA kernels of Hawkes attention: float32 and bfloat16, D and Dv up to 256.
#pragma once

#include <cuda_runtime.h>

#include "../hawkes_attention.h"

namespace emorec {

constexpr int64_t kMaxHeadSize = 256;

// Scratch of the backward pass, [T, H] each, not initialised.
struct HawkesBackwardWorkspace {
  float* inverse_sum;  // 1 / sum_j exp(s_ij - log_sum_i)
  float* delta;        // delta_i
  float* grad_rate;    // what query i adds to the gradient of the head's decay rate
};

// `tf32` lets float32 products round their operands to 10 bits, for the sake of tensor cores.
// Both return the error of the launch, not of kernels that run later.
cudaError_t launch_hawkes_attention_fwd(const HawkesForwardParams& params, bool tf32,
                                        cudaStream_t stream);
cudaError_t launch_hawkes_attention_bwd(const HawkesBackwardParams& params,
                                        const HawkesBackwardWorkspace& workspace, bool tf32,
                                        cudaStream_t stream);

}  // namespace emorec
