// The linear maps of a transformer with what is around them, and their gradients: the formulas, and
// the parameters that pass from the torch-aware host code to the torch-free kernels.
//
// After a layer norm, with an activation a and factors of dropout f_tj:
//
//   n_t = (x_t - mean(x_t)) r_t          r_t = 1 / sqrt(var(x_t) + epsilon)
//   u_t = gain n_t + shift               h_t = f_t a(W u_t + b)
//
// and with g = d loss / d h, s_t the slope of the activation and q_t = gain W^T d_t:
//
//   d_t = f_t s_t g_t                    dW = sum_t d_t u_t^T      db = sum_t d_t
//   dgain = sum_t n_t W^T d_t            dshift = sum_t W^T d_t
//   dx_t = r_t (q_t - mean(q_t) - n_t mean(q_t n_t))
//
// Before a residual, with factors of dropout e_td and g = d loss / d y:
//
//   y_t = x_t + e_t (V h_t + c)          z_t = e_t g_t
//   dx_t = g_t    dh_t = V^T z_t         dV = sum_t z_t h_t^T      dc = sum_t z_t
//
// Factors of dropout are 0 where a random byte is below a threshold, and 256 / (256 - threshold)
// elsewhere. Rows are taken in tiles, which stay in cache until all that needs them is done.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace emorec {

enum class Activation { none, relu, elu };

struct NormLinearParams {
  // Sizes, in whole vectors.
  int64_t num_rows;  // T
  int64_t size;      // D
  int64_t outputs;   // N

  // Inputs, contiguous.
  Dtype dtype;         // of all numbers; not bfloat16
  const void* x;       // [T, D]
  const void* gain;    // [D]
  const void* shift;   // [D]
  const void* weight;  // [N, D]: W
  const void* bias;    // [N]: b
  double epsilon;
  Activation activation;
  int64_t first_activated;  // the outputs before are not
  const uint8_t* bytes;     // [T, N]: of f; with a ReLU alone, null without dropout
  int64_t threshold;        // 0 without dropout

  void* output;  // [T, N]: h, which the backward reads
};

struct NormLinearBackwardParams : NormLinearParams {
  const void* grad_output;  // [T, N]: g
  void* grad_x;             // [T, D]
};

struct AddLinearParams {
  // Sizes, in whole vectors.
  int64_t num_rows;  // T
  int64_t size;      // D
  int64_t inputs;    // H

  // Inputs, contiguous.
  Dtype dtype;           // of all numbers; not bfloat16
  const void* h;         // [T, H]
  const void* weight;    // [D, H]: V
  const uint8_t* bytes;  // [T, D]: of e; null without dropout
  int64_t threshold;
};

struct AddLinearForwardParams : AddLinearParams {
  const void* x;     // [T, D]
  const void* bias;  // [D]: c
  void* output;      // [T, D]: y
};

struct AddLinearBackwardParams : AddLinearParams {
  const void* grad_output;  // [T, D]: g
  void* grad_h;             // [T, H]
};

}  // namespace emorec
