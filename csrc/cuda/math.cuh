// Products of tiles in shared memory by one warp, in any of three precisions, with one interface:
//
//   multiply_transposed  C[16, 8N] += A[16, K] B[8N, K]^T
//   multiply             C[16, 8N] += A[16, K] B[K, 8N]
//
// C lives in registers as tensor cores lay it out: c[n][e] of a lane is row fragment_row(e), column
// fragment_column(n, e). A and B are row-major, `lda` and `ldb` elements from row to row. Rows are
// padded by kPad elements, so that a warp's loads are from different banks.
#pragma once

#include "ptx.cuh"

namespace emorec {

__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x % 32); }
__device__ __forceinline__ int fragment_row(int e) { return lane() / 4 + 8 * (e / 2); }
__device__ __forceinline__ int fragment_column(int n, int e) {
  return 8 * n + 2 * (lane() % 4) + e % 2;
}

// float32 by fused multiply-adds in the order of k.
struct Fp32 {
  using Element = float;
  static constexpr int kPad = 4;

  static __device__ float to_float(Element x) { return x; }
  static __device__ Element from_float(float x) { return x; }
  static __device__ void store_pair(Element* to, float low, float high) {
    to[0] = low;
    to[1] = high;
  }
  static __device__ float exp(float x) { return expf(x); }

  template <int K, int N>
  static __device__ void multiply_transposed(float (&c)[N][4], const float* a, int lda,
                                             const float* b, int ldb) {
    a += fragment_row(0) * lda;
    b += fragment_column(0, 0) * ldb;
#pragma unroll 1
    for (int k = 0; k < K; k += 4) {
      const Floats<4> a0 = load<4>(a + k), a1 = load<4>(a + 8 * lda + k);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const Floats<4> b0 = load<4>(b + 8 * n * ldb + k), b1 = load<4>(b + (8 * n + 1) * ldb + k);
#pragma unroll
        for (int i = 0; i < 4; ++i) multiply_add(c[n], a0.x[i], a1.x[i], b0.x[i], b1.x[i]);
      }
    }
  }

  template <int K, int N>
  static __device__ void multiply(float (&c)[N][4], const float* a, int lda, const float* b,
                                  int ldb) {
    a += fragment_row(0) * lda;
    b += fragment_column(0, 0);
#pragma unroll 1
    for (int k = 0; k < K; k += 4) {
      const Floats<4> a0 = load<4>(a + k), a1 = load<4>(a + 8 * lda + k);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int n = 0; n < N; ++n) {
          const Floats<2> row = load<2>(b + (k + i) * ldb + 8 * n);
          multiply_add(c[n], a0.x[i], a1.x[i], row.x[0], row.x[1]);
        }
    }
  }

 private:
  // One load of 8 or 16 bytes: shared memory, not arithmetic, is what this path waits for.
  template <int kCount>
  struct alignas(4 * kCount) Floats {
    float x[kCount];
  };
  template <int kCount>
  static __device__ __forceinline__ Floats<kCount> load(const float* from) {
    return *reinterpret_cast<const Floats<kCount>*>(from);
  }
  static __device__ __forceinline__ void multiply_add(float (&c)[4], float a0, float a1, float b0,
                                                      float b1) {
    c[0] = fmaf(a0, b0, c[0]);
    c[1] = fmaf(a0, b1, c[1]);
    c[2] = fmaf(a1, b0, c[2]);
    c[3] = fmaf(a1, b1, c[3]);
  }
};

// float32 whose products are of operands rounded to 10 bits, on tensor cores.
struct Tf32 : Fp32 {
  template <int K, int N>
  static __device__ void multiply_transposed(float (&c)[N][4], const float* a, int lda,
                                             const float* b, int ldb) {
    const int g = lane() / 4, t = lane() % 4;
#pragma unroll 2
    for (int k = 0; k < K; k += 8) {
      uint32_t left[4];
      load_left(left, a + k, lda);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const float* row = b + (8 * n + g) * ldb + k + t;
        const uint32_t right[2] = {round_to_tf32(row[0]), round_to_tf32(row[4])};
        mma_m16n8k8_tf32(c[n], left, right);
      }
    }
  }

  template <int K, int N>
  static __device__ void multiply(float (&c)[N][4], const float* a, int lda, const float* b,
                                  int ldb) {
    const int g = lane() / 4, t = lane() % 4;
#pragma unroll 1
    for (int k = 0; k < K; k += 8) {
      uint32_t left[4];
      load_left(left, a + k, lda);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const float* column = b + (k + t) * ldb + 8 * n + g;
        const uint32_t right[2] = {round_to_tf32(column[0]), round_to_tf32(column[4 * ldb])};
        mma_m16n8k8_tf32(c[n], left, right);
      }
    }
  }

 private:
  static __device__ __forceinline__ void load_left(uint32_t (&left)[4], const float* a, int lda) {
#pragma unroll
    for (int r = 0; r < 4; ++r)
      left[r] = round_to_tf32(a[(lane() / 4 + 8 * (r % 2)) * lda + lane() % 4 + 4 * (r / 2)]);
  }
};

// bfloat16 operands, float32 sums, on tensor cores.
struct Bf16 {
  struct Element {
    uint16_t bits;
  };
  static constexpr int kPad = 8;

  static __device__ float to_float(Element x) {
    return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
  }
  static __device__ Element from_float(float x) {
    return {static_cast<uint16_t>(pack_bf16(x, 0.0f) & 0xffffu)};
  }
  static __device__ void store_pair(Element* to, float low, float high) {
    *reinterpret_cast<uint32_t*>(to) = pack_bf16(low, high);
  }
  static __device__ float exp(float x) { return __expf(x); }

  template <int K, int N>
  static __device__ void multiply_transposed(float (&c)[N][4], const Element* a, int lda,
                                             const Element* b, int ldb) {
    // One ldmatrix brings two blocks of 8 rows of B, 16 deep.
    a += lane() % 16 * lda + 8 * (lane() / 16);
    b += (lane() % 8 + 8 * (lane() / 16)) * ldb + 8 * (lane() / 8 % 2);
#pragma unroll
    for (int k = 0; k < K; k += 16) {
      uint32_t left[4];
      ldmatrix(left, a + k);
#pragma unroll
      for (int n = 0; n < N; n += 2) {
        uint32_t right[4];
        ldmatrix(right, b + 8 * n * ldb + k);
        mma_m16n8k16_bf16(c[n], left, {right[0], right[1]});
        mma_m16n8k16_bf16(c[n + 1], left, {right[2], right[3]});
      }
    }
  }

  template <int K, int N>
  static __device__ void multiply(float (&c)[N][4], const Element* a, int lda, const Element* b,
                                  int ldb) {
    a += lane() % 16 * lda + 8 * (lane() / 16);
    b += lane() % 16 * ldb + 8 * (lane() / 16);
#pragma unroll
    for (int k = 0; k < K; k += 16) {
      uint32_t left[4];
      ldmatrix(left, a + k);
#pragma unroll
      for (int n = 0; n < N; n += 2) {
        uint32_t right[4];
        ldmatrix_transposed(right, b + k * ldb + 8 * n);
        mma_m16n8k16_bf16(c[n], left, {right[0], right[1]});
        mma_m16n8k16_bf16(c[n + 1], left, {right[2], right[3]});
      }
    }
  }
};

}  // namespace emorec
