// The operators on CUDA tensors: a library of its own, loaded after the CPU library, which holds
// the schemas, and only where PyTorch has CUDA.
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

#include <cstdlib>
#include <cstring>

#include "../hawkes_attention_params.h"
#include "hawkes_attention_cuda.h"

namespace emorec {
namespace {

// Sets the current device to that of a tensor while it lives, and holds the stream to launch on.
struct DeviceAndStream {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;

  explicit DeviceAndStream(const Tensor& tensor) : guard(tensor.get_device_index()) {
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(
        aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &current));
    stream = static_cast<cudaStream_t>(current);
  }
};

void check_supported(const HawkesForwardParams& p) {
  STD_TORCH_CHECK(p.dtype != Dtype::float64,
                  "hawkes_attention: float64 has no CUDA kernel; use backend='reference'");
  STD_TORCH_CHECK(p.query_size <= kMaxHeadSize && p.value_size <= kMaxHeadSize,
                  "hawkes_attention: the CUDA kernel takes sizes up to ", kMaxHeadSize,
                  " per head, got queries of ", p.query_size, " and values of ", p.value_size);
}

// float32 products are exact unless EMOREC_TF32=1 asks for tensor cores.
bool tf32_allowed() {
  const char* value = std::getenv("EMOREC_TF32");
  return value != nullptr && std::strcmp(value, "1") == 0;
}

std::tuple<Tensor, Tensor> hawkes_attention_fwd(
    Tensor query, std::optional<Tensor> key, Tensor value, Tensor time, Tensor position,
    Tensor cu_seqlens, Tensor decay_rate, Tensor inverse_window, std::optional<Tensor> seed,
    double scale, double dropout, bool additive, bool causal, bool mask_self, bool sum_heads) {
  const DeviceAndStream device(value);
  HawkesForwardParams p{};
  fill_params(p, {query, key, value, time, position, cu_seqlens, decay_rate, inverse_window, seed,
                  scale, dropout, additive, causal, mask_self, sum_heads});
  check_supported(p);
  const auto outputs = make_outputs(p, value);
  STD_CUDA_CHECK(launch_hawkes_attention_fwd(p, tf32_allowed(), device.stream));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return outputs;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> hawkes_attention_bwd(
    Tensor grad_output, Tensor log_sum, Tensor query, std::optional<Tensor> key, Tensor value,
    Tensor time, Tensor position, Tensor cu_seqlens, Tensor decay_rate, Tensor inverse_window,
    std::optional<Tensor> seed, double scale, double dropout, bool additive, bool causal,
    bool mask_self, bool sum_heads) {
  const DeviceAndStream device(value);
  const HawkesArguments arguments = {query, key, value, time, position, cu_seqlens, decay_rate,
                                     inverse_window, seed, scale, dropout, additive, causal,
                                     mask_self, sum_heads};
  HawkesBackwardParams p{};
  fill_params(p, arguments);
  check_supported(p);
  const auto [grad_query, grad_key, grad_value] =
      make_gradients(p, grad_output, log_sum, arguments);
  const Tensor parts = torch::stable::new_empty(decay_rate, {p.num_sequences, p.num_heads});
  p.grad_decay_rate = static_cast<double*>(parts.data_ptr());
  const int64_t rows = p.num_tokens * p.num_heads;
  const Tensor scratch = torch::stable::new_empty(value, {3, rows}, ScalarType::Float);
  float* numbers = static_cast<float*>(scratch.data_ptr());
  STD_CUDA_CHECK(launch_hawkes_attention_bwd(p, {numbers, numbers + rows, numbers + 2 * rows},
                                             tf32_allowed(), device.stream));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const int64_t sequences[] = {0};
  return {grad_query, grad_key, grad_value, torch::stable::sum(parts, sequences)};
}

}  // namespace
}  // namespace emorec

STABLE_TORCH_LIBRARY_IMPL(emorec, CUDA, m) {
  m.impl("hawkes_attention_fwd", TORCH_BOX(&emorec::hawkes_attention_fwd));
  m.impl("hawkes_attention_bwd", TORCH_BOX(&emorec::hawkes_attention_bwd));
}
