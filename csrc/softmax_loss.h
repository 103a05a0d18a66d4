// Cross-entropy over a whole catalogue and its gradient: the formula, and the parameters that pass
// from the torch-aware host code to the torch-free kernels.
//
// For a state x_t, items v_i and targets y_tk of which those with w_tk = 1 count, n_t of the
// state's and N in all:
//
//   s_ti = <x_t, v_i>                p_ti = exp(s_ti) / sum_j exp(s_tj)
//   loss = sum_t l_t / N             l_t = sum_k w_tk (log sum_j exp(s_tj) - s_t,y_tk)
//   e_ti = (n_t p_ti - sum_k w_tk [y_tk = i]) / N
//   dx_t = sum_i e_ti v_i            dv_i = sum_t e_ti x_t
//
// A state none of whose targets counts adds nothing. Scores of all states would not fit a cache:
// states are taken in chunks whose errors do, and the gradients are made while they are there.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace emorec {

struct SoftmaxLossParams {
  // Sizes.
  int64_t num_states;   // T
  int64_t num_items;    // I
  int64_t num_targets;  // K
  int64_t size;         // D

  // Inputs, contiguous.
  Dtype dtype;            // of state, items and their gradients; not bfloat16
  const void* state;      // [T, D]
  const void* items;      // [I, D]
  const int64_t* target;  // [T, K], from 0 to I - 1
  const bool* wanted;     // [T, K]
  int64_t num_wanted;     // N

  int64_t chunk;  // states whose errors are kept at a time

  // Outputs, contiguous.
  double* loss;      // [T]: l_t
  void* grad_state;  // [T, D]
  void* grad_items;  // [I, D]
};

}  // namespace emorec
