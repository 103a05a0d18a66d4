// Update of nodes and its gradient: the formula, and the parameters that pass from the torch-aware
// host code to the torch-free kernels.
//
// For a node v of kind k, with a vector x_v of its own and J vectors z_vj that reach it:
//
//   h_v = b_k + W_k x_v + sum_j c_vj U_kj z_vj
//   a_v = elu(h_v), or h_v
//   n_v = (a_v - mean(a_v)) r_v          r_v = 1 / sqrt(var(a_v) + epsilon)
//   y_v = gain n_v + shift
//
// and with g = d loss / d y, q = gain g and s_v the slope of the ELU, min(a_v, 0) + 1, or 1:
//
//   e_v = d loss / d h_v = s_v r_v (q_v - mean(q_v) - n_v mean(q_v n_v))
//   dx_v = W_k^T e_v        dW_k = sum_v e_v x_v^T           db_k = sum_v e_v
//   dz_vj = c_vj U_kj^T e_v  dU_kj = sum_v c_vj e_v z_vj^T
//   dgain = sum_v g_v n_v   dshift = sum_v g_v
//
// Rows are taken in tiles whose h or e stay in the first cache until all that needs them is done.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace emorec {

struct NodeUpdateParams {
  // Sizes.
  int64_t num_nodes;  // V
  int64_t num_kinds;  // K
  int64_t num_terms;  // J
  int64_t size;       // D, in whole vectors

  // Inputs, contiguous.
  Dtype dtype;                // of all numbers; not bfloat16
  const void* others;         // [Z, D]
  const void* others_weight;  // [K, J, D, D]: U
  const void* own;            // [V, D]: x, or null
  const void* own_weight;     // [K, D, D]: W, or null as well
  const int32_t* index;  // [V, J]: the row of others that is z_vj, below 0 for zeros; null: v J + j
  const void* scale;     // [J, V]: c, or null
  const void* gain;      // [D]
  bool elu;

  // What the forward makes and the backward reads, contiguous.
  void* activated;   // [V, D]: a
  void* statistics;  // [V, 2]: mean(a) and r
};

struct NodeUpdateForwardParams : NodeUpdateParams {
  const void* bias;   // [K, D]: b, or null
  const void* shift;  // [D]
  double epsilon;
  void* output;  // [V, D]: y
};

struct NodeUpdateBackwardParams : NodeUpdateParams {
  const void* grad_output;  // [V, D]: g
  void* grad_own;           // [V, D], or null
  void* grad_others;        // [Z, D]
};

}  // namespace emorec
