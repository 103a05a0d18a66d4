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

inline int schedule = 0;  // 0: threads and blocks in order, 1: reversed, above: random with this seed

const dim3& thread_index();
const dim3& block_index();
const dim3& block_size();
const dim3& grid_size();
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
  return std::bit_cast<float>(exchange({std::bit_cast<std::uint32_t>(value)}, line)[lane() ^ other][0]);
}

}  // namespace cuda_on_cpu

#define threadIdx cuda_on_cpu::thread_index()
#define blockIdx cuda_on_cpu::block_index()
#define blockDim cuda_on_cpu::block_size()
#define gridDim cuda_on_cpu::grid_size()
#define __syncthreads() cuda_on_cpu::sync_threads(__LINE__)
#define __syncwarp() cuda_on_cpu::sync_warp(__LINE__)
#define __shfl_xor_sync(mask, value, other) \
  cuda_on_cpu::shuffle_xor(mask, value, other, __LINE__)

inline float __expf(float x) { return std::exp(x); }
inline float __uint_as_float(std::uint32_t bits) { return std::bit_cast<float>(bits); }
inline double __longlong_as_double(std::int64_t bits) { return std::bit_cast<double>(bits); }
using std::max;
using std::min;

// What csrc/cuda/ptx.cuh says in PTX for the device. Accesses to memory are in this header, not in
// runtime.cpp, so that the sanitizers see them.
inline void* dynamic_shared_memory() { return cuda_on_cpu::shared_memory(); }

inline void cp_async_16(void* target, const void* source, int bytes) {
  const auto misaligned = reinterpret_cast<std::uintptr_t>(target) % 16 |
                          (bytes ? reinterpret_cast<std::uintptr_t>(source) % 16 : 0);
  if (misaligned || bytes < 0 || bytes > 16) cuda_on_cpu::fail("bad asynchronous copy", __LINE__);
  std::memset(target, 0xff, 16);
  cuda_on_cpu::open_copies().push_back({target, source, bytes});
}

inline void cp_async_commit() { cuda_on_cpu::commit_copies(); }

template <int kGroupsLeft>
void cp_async_wait() {
  for (const auto& [target, source, bytes] : cuda_on_cpu::due_copies(kGroupsLeft)) {
    std::memset(target, 0, 16);
    std::memcpy(target, source, bytes);
  }
}

inline std::uint32_t round_float(float x, std::uint32_t half, std::uint32_t kept) {
  return (std::bit_cast<std::uint32_t>(x) + half) & kept;
}

inline std::uint32_t round_to_tf32(float x) { return round_float(x, 0x1000u, 0xffffe000u); }

inline std::uint32_t pack_bf16(float low, float high) {
  const auto round = [](float x) {  // to nearest even; NaN stays NaN
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
    if (x != x) return 0x7fffu;
    return round_float(x, 0x7fffu + (bits >> 16 & 1), 0xffff0000u) >> 16;
  };
  return round(high) << 16 | round(low);
}

template <bool kTransposed = false>
void ldmatrix(std::uint32_t (&r)[4], const void* row) {
  const auto address = reinterpret_cast<std::uintptr_t>(row);
  const auto all = cuda_on_cpu::exchange({static_cast<std::uint32_t>(address), static_cast<std::uint32_t>(address >> 32)}, __LINE__);
  const auto start = [&](int lane) {
    return reinterpret_cast<const std::uint16_t*>(all[lane][0] | std::uintptr_t{all[lane][1]} << 32);
  };
  const int g = cuda_on_cpu::lane() / 4, t = cuda_on_cpu::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const auto element = [&](int k) {
      return std::uint32_t{kTransposed ? start(8 * i + 2 * t + k)[g] : start(8 * i + g)[2 * t + k]};
    };
    r[i] = element(0) | element(1) << 16;
  }
}

inline void ldmatrix_transposed(std::uint32_t (&r)[4], const void* row) { ldmatrix<true>(r, row); }

// The layouts are described in ptx.cuh.
template <int kDepth, class Left, class Right>
void mma(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
         const Left& left, const Right& right) {
  const auto all = cuda_on_cpu::exchange({a[0], a[1], a[2], a[3], b[0], b[1]}, __LINE__);
  const int g = cuda_on_cpu::lane() / 4, t = cuda_on_cpu::lane() % 4;
  for (int e = 0; e < 4; ++e)
    for (int k = 0; k < kDepth; ++k)
      c[e] += left(all.data(), g + 8 * (e / 2), k) * right(all.data(), k, 2 * t + e % 2);
}

inline void mma_m16n8k16_bf16(float (&c)[4], const std::uint32_t (&a)[4],
                              const std::uint32_t (&b)[2]) {
  const auto half = [](std::uint32_t pair, int k) {
    return std::bit_cast<float>(k % 2 ? pair & 0xffff0000u : pair << 16);
  };
  mma<16>(
      c, a, b,
      [&](const cuda_on_cpu::Words* all, int row, int k) {
        return half(all[row % 8 * 4 + k % 8 / 2][row / 8 + 2 * (k / 8)], k);
      },
      [&](const cuda_on_cpu::Words* all, int k, int column) {
        return half(all[column * 4 + k % 8 / 2][4 + k / 8], k);
      });
}

inline void mma_m16n8k8_tf32(float (&c)[4], const std::uint32_t (&a)[4],
                             const std::uint32_t (&b)[2]) {
  const auto truncated = [](std::uint32_t x) { return std::bit_cast<float>(x & 0xffffe000u); };
  mma<8>(
      c, a, b,
      [&](const cuda_on_cpu::Words* all, int row, int k) {
        return truncated(all[row % 8 * 4 + k % 4][row / 8 + 2 * (k / 4)]);
      },
      [&](const cuda_on_cpu::Words* all, int k, int column) {
        return truncated(all[column * 4 + k % 4][4 + k / 4]);
      });
}

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
