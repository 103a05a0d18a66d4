// From the sizes and types of a call to an instance of a kernel, and its launch.
#pragma once

#include "tiles.cuh"

namespace emorec {

// Calls body(Math(), std::integral_constant-like head size) for the smallest size that fits.
template <int kSize>
struct HeadSize {
  static constexpr int value = kSize;
};

template <class Math, class Body>
cudaError_t dispatch_head_size(int64_t size, const Body& body) {
  if (size <= 32) return body(Math(), HeadSize<32>());
  if (size <= 64) return body(Math(), HeadSize<64>());
  if (size <= 128) return body(Math(), HeadSize<128>());
  return body(Math(), HeadSize<256>());
}

template <class Body>
cudaError_t dispatch(const HawkesForwardParams& p, bool tf32, const Body& body) {
  const int64_t size = p.query_size > p.value_size ? p.query_size : p.value_size;
  if (p.dtype == Dtype::bfloat16) return dispatch_head_size<Bf16>(size, body);
  if (tf32) return dispatch_head_size<Tf32>(size, body);
  return dispatch_head_size<Fp32>(size, body);
}

template <class Params>
cudaError_t launch(void (*kernel)(Params), int64_t blocks, int64_t blocks_y, int threads,
                   size_t shared_bytes, Params params, cudaStream_t stream) {
  if (blocks == 0) return cudaSuccess;
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (error != cudaSuccess) return error;
  void* arguments[] = {&params};
  return cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(blocks_y)),
                          dim3(threads), arguments, shared_bytes, stream);
}

}  // namespace emorec
