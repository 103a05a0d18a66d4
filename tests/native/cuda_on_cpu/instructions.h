// What csrc/cuda/ptx.cuh says in PTX for the device; register layouts are described there. Accesses
// to memory are in this header, not in runtime.cpp, so that the sanitizers see them.
#pragma once

#include "cuda_runtime.h"

inline void* dynamic_shared_memory() { return cuda_on_cpu::shared_memory(); }

// 16 bytes word by word: ThreadSanitizer does not see what memset and memcpy write in place.
inline void write_16(void* target, std::array<std::uint32_t, 4> words) {
  typedef std::uint32_t __attribute__((may_alias)) Word;
  for (int i = 0; i < 4; ++i) static_cast<Word*>(target)[i] = words[i];
}

inline void cp_async_16(void* target, const void* source, int bytes) {
  const auto misaligned = reinterpret_cast<std::uintptr_t>(target) % 16 |
                          (bytes ? reinterpret_cast<std::uintptr_t>(source) % 16 : 0);
  if (misaligned || bytes < 0 || bytes > 16) cuda_on_cpu::fail("bad asynchronous copy", __LINE__);
  write_16(target, {~0u, ~0u, ~0u, ~0u});
  cuda_on_cpu::open_copies().push_back({target, source, bytes});
}

inline void cp_async_commit() { cuda_on_cpu::commit_copies(); }

template <int kGroupsLeft>
void cp_async_wait() {
  for (const auto& [target, source, bytes] : cuda_on_cpu::due_copies(kGroupsLeft)) {
    std::array<std::uint32_t, 4> words = {};
    std::memcpy(words.data(), source, bytes);
    write_16(target, words);
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
  const auto all = cuda_on_cpu::exchange(
      {static_cast<std::uint32_t>(address), static_cast<std::uint32_t>(address >> 32)}, __LINE__);
  const auto start = [&](int lane) {
    return reinterpret_cast<const std::uint16_t*>(all[lane][0] |
                                                  std::uintptr_t{all[lane][1]} << 32);
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

inline void mma_m16n8k16_bf16(float (&c)[4], const std::uint32_t (&a)[4],
                              const std::uint32_t (&b)[2]) {
  const auto all = cuda_on_cpu::exchange({a[0], a[1], a[2], a[3], b[0], b[1]}, __LINE__);
  const int g = cuda_on_cpu::lane() / 4, t = cuda_on_cpu::lane() % 4;
  const auto half = [](std::uint32_t pair, int k) {
    return std::bit_cast<float>(k % 2 ? pair & 0xffff0000u : pair << 16);
  };
  for (int e = 0; e < 4; ++e)
    for (int k = 0; k < 16; ++k)
      c[e] += half(all[4 * g + k % 8 / 2][e / 2 + 2 * (k / 8)], k) *
              half(all[4 * (2 * t + e % 2) + k % 8 / 2][4 + k / 8], k);
}

inline void mma_m16n8k8_tf32(float (&c)[4], const std::uint32_t (&a)[4],
                             const std::uint32_t (&b)[2]) {
  const auto all = cuda_on_cpu::exchange({a[0], a[1], a[2], a[3], b[0], b[1]}, __LINE__);
  const int g = cuda_on_cpu::lane() / 4, t = cuda_on_cpu::lane() % 4;
  const auto truncated = [](std::uint32_t x) { return std::bit_cast<float>(x & 0xffffe000u); };
  for (int e = 0; e < 4; ++e)
    for (int k = 0; k < 8; ++k)
      c[e] += truncated(all[4 * g + k % 4][e / 2 + 2 * (k / 4)]) *
              truncated(all[4 * (2 * t + e % 2) + k % 4][4 + k / 4]);
}
