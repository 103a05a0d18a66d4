// From tensors to the parameters of a kernel, for the host code of every device. Stable ABI only.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <tuple>

#include "hawkes_attention.h"

namespace emorec {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The tensors and options of both operators, in the order of their schemas.
struct HawkesArguments {
  const Tensor& query;
  const std::optional<Tensor>& key;
  const Tensor& value;
  const Tensor& time;
  const Tensor& position;
  const Tensor& cu_seqlens;
  const Tensor& decay_rate;
  const Tensor& inverse_window;
  const std::optional<Tensor>& seed;
  double scale;
  double dropout;
  bool additive;
  bool causal;
  bool mask_self;
  bool sum_heads;
};

inline Dtype dtype_of(const Tensor& tensor) {
  const ScalarType type = tensor.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double ||
                      type == ScalarType::BFloat16,
                  "hawkes_attention: query, key and value must be float32, float64 or bfloat16");
  return type == ScalarType::Float    ? Dtype::float32
         : type == ScalarType::Double ? Dtype::float64
                                      : Dtype::bfloat16;
}

inline void check_vectors(const char* name, const Tensor& tensor, const Tensor& value,
                          int64_t heads, int64_t size) {
  STD_TORCH_CHECK(tensor.scalar_type() == value.scalar_type(), "hawkes_attention: ", name,
                  " and value differ in dtype");
  STD_TORCH_CHECK(tensor.get_device_index() == value.get_device_index(), "hawkes_attention: ", name,
                  " and value are on different devices");
  STD_TORCH_CHECK(tensor.dim() == 3 && tensor.size(0) == value.size(0) && tensor.size(1) == heads &&
                      tensor.size(2) == size,
                  "hawkes_attention: ", name, " must be [", value.size(0), ", ", heads, ", ", size,
                  "]");
  // Without elements strides may be anything: 0 for arrays of NumPy.
  STD_TORCH_CHECK(tensor.stride(2) == 1 || size <= 1 || tensor.numel() == 0,
                  "hawkes_attention: ", name, " must be contiguous in its last dimension");
}

inline void check_vector(const char* name, const Tensor& tensor, ScalarType type, int64_t size,
                         const Tensor& value) {
  STD_TORCH_CHECK(tensor.scalar_type() == type && tensor.dim() == 1 && tensor.size(0) == size &&
                      tensor.is_contiguous(),
                  "hawkes_attention: ", name, " must be contiguous, of ", size,
                  " elements, and of the documented dtype");
  STD_TORCH_CHECK(tensor.get_device_index() == value.get_device_index(), "hawkes_attention: ", name,
                  " and value are on different devices");
}

// Strides of a size-1 dimension may be anything; a head stride of 0 means that heads share.
inline ConstVectors const_vectors(const Tensor& tensor) {
  return {tensor.data_ptr(), tensor.stride(0), tensor.size(1) == 1 ? 0 : tensor.stride(1)};
}

inline Vectors vectors(const Tensor& tensor) {
  return {tensor.data_ptr(), tensor.stride(0), tensor.size(1) == 1 ? 0 : tensor.stride(1)};
}

// Checks the arguments and fills in all but the outputs. Queries and keys are [T, 1, D] where heads
// share them.
inline void fill_params(HawkesForwardParams& p, const HawkesArguments& a) {
  STD_TORCH_CHECK(a.value.dim() == 3, "hawkes_attention: value must be [T, H, Dv]");
  p.num_tokens = a.value.size(0);
  p.num_heads = a.value.size(1);
  p.value_size = a.value.size(2);
  STD_TORCH_CHECK(a.query.dim() == 3 && (a.query.size(1) == 1 || a.query.size(1) == p.num_heads),
                  "hawkes_attention: query must be [T, 1 or H, D]");
  p.query_size = a.query.size(2);
  p.dtype = dtype_of(a.value);
  p.key_is_query = !a.key.has_value();
  p.shared_scores = a.query.size(1) == 1;
  check_vectors("query", a.query, a.value, a.query.size(1), p.query_size);
  if (a.key) check_vectors("key", *a.key, a.value, a.query.size(1), p.query_size);
  check_vectors("value", a.value, a.value, p.num_heads, p.value_size);
  p.query = const_vectors(a.query);
  p.key = const_vectors(a.key ? *a.key : a.query);
  p.value = const_vectors(a.value);

  const bool integers = a.time.scalar_type() == ScalarType::Long;
  check_vector("time", a.time, integers ? ScalarType::Long : ScalarType::Double, p.num_tokens,
               a.value);
  p.time_int64 = integers ? static_cast<const int64_t*>(a.time.data_ptr()) : nullptr;
  p.time_float64 = integers ? nullptr : static_cast<const double*>(a.time.data_ptr());
  check_vector("position", a.position, ScalarType::Int, p.num_tokens, a.value);
  p.position = static_cast<const int32_t*>(a.position.data_ptr());
  STD_TORCH_CHECK(a.cu_seqlens.dim() == 1 && a.cu_seqlens.size(0) >= 1,
                  "hawkes_attention: cu_seqlens must be [B + 1]");
  p.num_sequences = a.cu_seqlens.size(0) - 1;
  check_vector("cu_seqlens", a.cu_seqlens, ScalarType::Long, p.num_sequences + 1, a.value);
  p.cu_seqlens = static_cast<const int64_t*>(a.cu_seqlens.data_ptr());
  check_vector("decay_rate", a.decay_rate, ScalarType::Double, p.num_heads, a.value);
  p.decay_rate = static_cast<const double*>(a.decay_rate.data_ptr());
  check_vector("inverse_window", a.inverse_window, ScalarType::Double, p.num_heads, a.value);
  p.inverse_window = static_cast<const double*>(a.inverse_window.data_ptr());

  STD_TORCH_CHECK(a.dropout >= 0 && a.dropout < 1, "hawkes_attention: dropout must be in [0, 1)");
  STD_TORCH_CHECK(a.dropout == 0 || a.seed.has_value(), "hawkes_attention: dropout needs a seed");
  if (a.seed) check_vector("seed", *a.seed, ScalarType::Long, 1, a.value);
  p.seed = a.seed ? static_cast<const int64_t*>(a.seed->data_ptr()) : nullptr;
  p.decay = a.additive ? Decay::additive : Decay::multiplicative;
  p.causal = a.causal;
  p.mask_self = a.mask_self;
  p.sum_heads = a.sum_heads;
  p.scale = a.scale;
  p.dropout = a.dropout;
}

// Makes the forward's outputs: output [T, H or 1, Dv] and log_sum [T, H].
inline std::tuple<Tensor, Tensor> make_outputs(HawkesForwardParams& p, const Tensor& value) {
  Tensor output = torch::stable::new_empty(
      value, {p.num_tokens, p.sum_heads ? 1 : p.num_heads, p.value_size});
  const ScalarType accumulate =
      p.dtype == Dtype::float64 ? ScalarType::Double : ScalarType::Float;
  Tensor log_sum = torch::stable::new_empty(value, {p.num_tokens, p.num_heads}, accumulate);
  p.output = vectors(output);
  p.log_sum = log_sum.data_ptr();
  return {output, log_sum};
}

// Checks the backward's inputs and makes its outputs but the decay rate's: gradients of query, key
// (empty if the keys are the queries) and value.
inline std::tuple<Tensor, Tensor, Tensor> make_gradients(HawkesBackwardParams& p,
                                                         const Tensor& grad_output,
                                                         const Tensor& log_sum,
                                                         const HawkesArguments& a) {
  check_vectors("grad_output", grad_output, a.value, p.sum_heads ? 1 : p.num_heads, p.value_size);
  const ScalarType accumulate =
      p.dtype == Dtype::float64 ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(log_sum.scalar_type() == accumulate && log_sum.dim() == 2 &&
                      log_sum.size(0) == p.num_tokens && log_sum.size(1) == p.num_heads &&
                      log_sum.is_contiguous(),
                  "hawkes_attention: log_sum must be the forward's");
  p.grad_output = const_vectors(grad_output);
  p.log_sum = log_sum.data_ptr();
  Tensor grad_query = torch::stable::new_empty(
      a.value, {p.num_tokens, a.query.size(1), p.query_size});
  Tensor grad_key = p.key_is_query
                        ? torch::stable::new_empty(a.value, {0})
                        : torch::stable::new_empty(
                              a.value, {p.num_tokens, a.query.size(1), p.query_size});
  Tensor grad_value = torch::stable::new_empty(a.value, {p.num_tokens, p.num_heads, p.value_size});
  p.grad_query = vectors(grad_query);
  p.grad_key = p.key_is_query ? Vectors{nullptr, 0, 0} : vectors(grad_key);
  p.grad_value = vectors(grad_value);
  return {grad_query, grad_key, grad_value};
}

}  // namespace emorec
