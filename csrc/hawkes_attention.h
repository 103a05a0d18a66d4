// Hawkes attention: the formula, and the parameters that pass from the torch-aware host code to the
// torch-free kernels.
//
// Sequences are packed: sequence b holds the tokens cu_seqlens[b] : cu_seqlens[b + 1]. For head h, a
// query token i and a key token j of the same sequence, with times t and positions p:
//
//   g_ij = scale * <q_i, k_j>
//   x_ij = rate_h * max(0, t_i - t_j) + |p_i - p_j| * inverse_window_h       the decay's exponent
//   multiplicative:  s_ij = g_ij * w_ij,  w_ij = exp(-x_ij)
//   additive:        s_ij = g_ij - x_ij
//   a_ij = exp(s_ij) / sum_j exp(s_ij), over the keys that i attends to      0 for all other j
//   m_ij = keep_ij / (1 - dropout)                                           1 without dropout
//   o_i^h = sum_j a_ij m_ij v_j^h                                            or summed over h
//
// Token i attends to the tokens of its sequence; if causal only to those at its place or before; if
// mask_self not to itself. A token that attends to none has output 0 and passes no gradient.
//
// Backward, for the gradient u_i^h of o_i^h (the same u_i for all h if heads are summed):
//
//   dv_j = sum_i a_ij m_ij u_i
//   c_ij = m_ij <u_i, v_j>         delta_i = sum_j a_ij c_ij         ds_ij = a_ij (c_ij - delta_i)
//   multiplicative:  dg_ij = ds_ij w_ij,  drate_h = -sum_ij ds_ij s_ij max(0, t_i - t_j)
//   additive:        dg_ij = ds_ij,       drate_h = -sum_ij ds_ij max(0, t_i - t_j)
//   dq_i = scale * sum_j dg_ij k_j        dk_j = scale * sum_i dg_ij q_i
//   and where keys are the queries dq + dk, that is scale * (dG + dG^T) Q
//
// Times are subtracted before they are rounded to the working precision, which is float for bfloat16.
#pragma once

#include <cstdint>

#include "dtype.h"

#if defined(__CUDACC__)
#define HAWKES_INLINE __host__ __device__ __forceinline__
#else
#define HAWKES_INLINE inline
#endif

namespace emorec {

enum class Decay { multiplicative, additive };

// Vectors of all tokens and heads: element d of token i and head h is at
// data[i * token_stride + h * head_stride + d]. Strides count elements, not bytes. A head stride of
// 0 means that the heads share the vectors.
struct ConstVectors {
  const void* data;
  int64_t token_stride;
  int64_t head_stride;
};

struct Vectors {
  void* data;
  int64_t token_stride;
  int64_t head_stride;
};

struct HawkesForwardParams {
  // Sizes. D is the size of queries and keys, Dv of values.
  int64_t num_tokens;     // T
  int64_t num_sequences;  // B
  int64_t num_heads;      // H
  int64_t query_size;     // D
  int64_t value_size;     // Dv

  // Inputs.
  Dtype dtype;                   // of query, key, value, output and their gradients
  ConstVectors query;            // [T, H or 1, D]
  ConstVectors key;              // [T, H or 1, D]; equals query if key_is_query
  ConstVectors value;            // [T, H, Dv]
  const int64_t* time_int64;     // [T], or null if times are float64
  const double* time_float64;    // [T], or null if times are int64
  const int32_t* position;       // [T], to be subtracted by position_difference
  const int64_t* cu_seqlens;     // [B + 1]
  const double* decay_rate;      // [H], >= 0
  const double* inverse_window;  // [H], >= 0, 0 for an infinite window
  const int64_t* seed;           // [1], on the device; null without dropout

  // Options.
  Decay decay;
  bool key_is_query;   // Q = K: the backward writes dq + dk to grad_query and nothing to grad_key
  bool shared_scores;  // queries and keys have no heads: one Q K^T serves all heads
  bool causal;
  bool mask_self;
  bool sum_heads;  // the output is summed over heads; its head stride is 0
  double scale;
  double dropout;  // in [0, 1)

  // Outputs.
  Vectors output;  // [T, H, Dv], or [T, 1, Dv] if sum_heads
  void* log_sum;   // [T, H], contiguous, float (double for float64): log sum_j exp(s_ij); 0 for a
                   // token that attends to none
};

// log_sum and the forward's other fields are inputs here, `output` is unused.
struct HawkesBackwardParams : HawkesForwardParams {
  ConstVectors grad_output;  // [T, H, Dv], or [T, 1, Dv] with head stride 0 if sum_heads
  Vectors grad_query;        // [T, H or 1, D]
  Vectors grad_key;          // [T, H or 1, D]; unused if key_is_query
  Vectors grad_value;        // [T, H, Dv]
  double* grad_decay_rate;   // [B, H]: what each sequence adds, summed by the caller in order
};

// Positions are int64 modulo 2^32, and so is their difference: exact within a sequence that spans
// less than 2^31.
HAWKES_INLINE int32_t position_difference(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) - static_cast<uint32_t>(b));
}

// Dropout mask. The mask is a function of (seed, token, head, place of the key in its sequence)
// alone, so that the backward pass, another device or another tiling finds the same one.

// 64 random bits of a row: a Weyl step and the finaliser of SplitMix64.
HAWKES_INLINE uint64_t dropout_row_key(uint64_t seed, uint64_t token, uint64_t head) {
  uint64_t z = seed + 0x9E3779B97F4A7C15ull * (token * 0x10001ull + head + 1);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// 32 random bits of a key place j in a row.
HAWKES_INLINE uint32_t dropout_bits(uint64_t row_key, uint32_t j) {
  uint32_t x = j * 0x9E3779B9u + static_cast<uint32_t>(row_key);
  x = (x ^ (x >> 16)) * 0x21F0AAADu;
  x = ((x ^ (x >> 15)) + static_cast<uint32_t>(row_key >> 32)) * 0x735A2D97u;
  return x ^ (x >> 15);
}

// A weight is kept where dropout_bits >= this.
HAWKES_INLINE uint32_t dropout_threshold(double dropout) {
  return static_cast<uint32_t>(dropout * 4294967296.0);
}

}  // namespace emorec
