// Stand-in for CUDA's <cuda_runtime.h>: with this folder first on the include path, a C++ compiler
// builds a .cu file, launcher and all, and runs it on the CPU.
//
// Every CUDA thread of a block is a fiber. Barriers and warp operations are the only places where
// fibers change; the order they run in is cuda_on_cpu::schedule. Under -fsanitize=thread each fiber
// is a thread of its own and only barriers (not shuffles) order memory, as on the device.
// Shared memory has exactly the size of the launch and starts as NaN. An asynchronous copy spoils
// its target at once and fills it only when waited for, the latest moment the hardware allows.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace cuda_on_cpu {

inline int schedule = 0;  // 0: threads and blocks in order, 1: reversed, above: random seed

const dim3& thread_index();
const dim3& block_index();
void* shared_memory();
void sync_threads(int line);
void sync_warp(int line);
// Gives every lane the words of all 32 lanes; orders no memory.
using Words = std::array<std::uint32_t, 6>;
std::array<Words, 32> exchange(const Words& mine, int line);
struct Copy {
  void* target;
  const void* source;
  int bytes;
};
std::vector<Copy>& open_copies();
void commit_copies();
std::vector<Copy> due_copies(int groups_left);
void allow_shared_bytes(const void* kernel, std::size_t bytes);
int launch(const void* kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
           const std::function<void()>& body);
[[noreturn]] void fail(const char* what, int line);

inline int lane() { return static_cast<int>(thread_index().x % 32); }

inline float shuffle_xor(unsigned mask, float value, int other, int line) {
  if (mask != 0xffffffffu) fail("only whole warps are modelled", line);
  const auto all = exchange({std::bit_cast<std::uint32_t>(value)}, line);
  return std::bit_cast<float>(all[lane() ^ other][0]);
}

}  // namespace cuda_on_cpu

#define threadIdx cuda_on_cpu::thread_index()
#define blockIdx cuda_on_cpu::block_index()
#define __syncthreads() cuda_on_cpu::sync_threads(__LINE__)
#define __syncwarp() cuda_on_cpu::sync_warp(__LINE__)
#define __shfl_xor_sync(mask, value, other) \
  cuda_on_cpu::shuffle_xor(mask, value, other, __LINE__)

inline float __expf(float x) { return std::exp(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __uint_as_float(std::uint32_t bits) { return std::bit_cast<float>(bits); }
inline double __longlong_as_double(std::int64_t bits) { return std::bit_cast<double>(bits); }
using std::max;
using std::min;

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

template <class Params>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Params), cudaFuncAttribute, int bytes) {
  cuda_on_cpu::allow_shared_bytes(reinterpret_cast<const void*>(kernel), bytes);
  return cudaSuccess;
}

template <class Params>
cudaError_t cudaLaunchKernel(void (*kernel)(Params), dim3 grid, dim3 block, void** arguments,
                             std::size_t shared_bytes, cudaStream_t) {
  const Params params = *static_cast<const Params*>(arguments[0]);
  return cuda_on_cpu::launch(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes,
                             [kernel, &params] { kernel(params); });
}

#include "instructions.h"
