// Attention over the edges of a graph and its gradient: the formula, and the parameters that pass
// from the torch-aware host code to the torch-free kernels.
//
// For an edge from u to v and each head, whose index is left out:
//
//   t_uv = l_u + r_v                       e_uv = t_uv if t_uv > 0, else slope t_uv
//   a_uv = exp(e_uv) / sum_u exp(e_uv)     m_v = sum_u a_uv x_u
//
// A target without edges gets zeros. With g = d loss / d m, c_v = <g_v, m_v> and s_uv the slope at
// t_uv, which is 1 or `slope`:
//
//   dx_u = sum_v a_uv g_v
//   dl_u = sum_v a_uv s_uv (<g_v, x_u> - c_v) = <sum_v a_uv s_uv g_v, x_u> - sum_v a_uv s_uv c_v
//   dr_v = sum_u a_uv s_uv (<g_v, x_u> - c_v) = <g_v, sum_u a_uv s_uv x_u> - c_v sum_u a_uv s_uv
//
// and a sum with s is slope times the sum over all edges and (1 - slope) times that over the edges
// above the bend, t_uv > 0. So the forward makes these two sums over each target's edges, the
// backward makes them over each source's, and nothing is ever kept per edge.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace emorec {

struct GraphAttentionParams {
  // Sizes.
  int64_t num_sources;  // U
  int64_t num_targets;  // V
  int64_t num_heads;    // H
  int64_t size;         // N, of a head's values

  // Inputs, contiguous.
  Dtype dtype;        // of all numbers; not bfloat16
  const void* x;      // [U, H, N]
  const void* left;   // [U, H]
  const void* right;  // [V, H]
  double slope;

  // What the forward makes and the backward reads, contiguous.
  void* output;  // [V, H, N]: m
  void* above;   // [V, H, N]: the part of m above the bend
  void* totals;  // [V, 3, H]: the largest e_uv over ln 2, 1 / sum_u exp(e_uv - largest), and the
                 // weight above the bend
};

struct GraphAttentionForwardParams : GraphAttentionParams {
  const int32_t* offsets;  // [V + 1]: where each target's edges begin and end
  const int32_t* source;   // [E], sorted by target
};

struct GraphAttentionBackwardParams : GraphAttentionParams {
  const int32_t* source_offsets;  // [U + 1]: where each source's edges begin and end
  const int32_t* target;          // [E], sorted by source
  const void* grad_output;        // [V, H, N]: g

  // Outputs, contiguous.
  void* grad_x;      // [U, H, N]
  void* grad_left;   // [U, H]
  void* grad_right;  // [V, H]
};

}  // namespace emorec
