// From the sizes and types of a call to an instance of a kernel, and its launch.
#pragma once

#include "tiles.cuh"

namespace emorec {

template <int kSize>
struct HeadSize {
  static constexpr int value = kSize;
};

// Calls body(arithmetic, head size) for the smallest head size that fits.
template <class Body>
cudaError_t dispatch(const HawkesForwardParams& p, bool tf32, const Body& body) {
  const int64_t size = p.query_size > p.value_size ? p.query_size : p.value_size;
  if (p.dtype == Dtype::bfloat16) {
    if (size <= 32) return body(Bf16(), HeadSize<32>());
    if (size <= 64) return body(Bf16(), HeadSize<64>());
    if (size <= 128) return body(Bf16(), HeadSize<128>());
    return body(Bf16(), HeadSize<256>());
  }
  if (tf32 && size <= 64) return body(Tf32(), HeadSize<64>());
  if (tf32 && size <= 128) return body(Tf32(), HeadSize<128>());
  if (size <= 32) return body(Fp32(), HeadSize<32>());
  if (size <= 64) return body(Fp32(), HeadSize<64>());
  if (size <= 128) return body(Fp32(), HeadSize<128>());
  return body(Fp32(), HeadSize<256>());
}

template <class Params>
cudaError_t launch(void (*kernel)(Params), int64_t blocks, int64_t blocks_y, int threads,
                   size_t shared_bytes, Params params, cudaStream_t stream) {
  if (blocks == 0) return cudaSuccess;
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (error != cudaSuccess) return error;
  void* arguments[] = {&params};
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(blocks_y));
  return cudaLaunchKernel(kernel, grid, dim3(threads), arguments, shared_bytes, stream);
}

}  // namespace emorec
