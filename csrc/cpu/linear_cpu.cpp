// Linear maps after a layer norm and before a residual, on the CPU: parameters of the kernels, and
// tasks.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <tuple>

#include "host.h"
#include "kernels.h"

namespace emorec {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// More rows make fewer sums of parameters' gradients to add up, fewer make more tasks for threads.
constexpr int64_t kTaskRows = 768, kMostTasks = 64;
constexpr int64_t kWholeVectors = 16;  // numbers: whole vectors of any instruction set

// The checks of one operator's arguments.
struct Checks {
  const char* name;
  ScalarType type;

  Checks(const char* op, const Tensor& rows, const Tensor& weight)
      : name(op), type(rows.scalar_type()) {
    STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, op,
                    ": rows must be float32 or float64");
    STD_TORCH_CHECK(rows.dim() == 2 && weight.dim() == 2, op,
                    ": rows and weight must have two dimensions");
    for (int64_t size : {weight.size(0), weight.size(1)})
      STD_TORCH_CHECK(size % kWholeVectors == 0, op, ": sizes must be multiples of ", kWholeVectors,
                      ", got ", size);
  }

  Dtype dtype() const { return type == ScalarType::Double ? Dtype::float64 : Dtype::float32; }

  const void* numbers(const char* argument, const Tensor& tensor,
                      std::initializer_list<int64_t> shape) const {
    return checked_data(name, argument, tensor, type, shape);
  }

  const uint8_t* bytes(const std::optional<Tensor>& tensor, int64_t threshold,
                       std::initializer_list<int64_t> shape) const {
    STD_TORCH_CHECK(threshold >= 0 && threshold < 256 && (threshold > 0) == tensor.has_value(),
                    name, ": bytes come with a threshold from 1 to 255");
    if (!tensor) return nullptr;
    return static_cast<const uint8_t*>(
        checked_data(name, "bytes", *tensor, ScalarType::Byte, shape));
  }
};

// Parts of the rows, whatever the number of threads.
struct Parts {
  int64_t num_rows, rows, count;

  Parts(int64_t all, int64_t tile) : num_rows(all) {
    const int64_t at_once = std::max(kTaskRows, all / kMostTasks);
    rows = (at_once + tile - 1) / tile * tile;
    count = (all + rows - 1) / rows;
  }

  Range operator[](int64_t i) const { return {i * rows, std::min((i + 1) * rows, num_rows)}; }
};

// Memory for the packed weight of a forward, kept from call to call.
char* shared_memory(const LinearSizes& sizes) {
  thread_local Scratch memory;
  return memory.at_least(sizes.shared_bytes);
}

template <typename C>
void add_up(const C* sums, std::initializer_list<Tensor> grads) {
  for (const Tensor& grad : grads) {
    C* to = static_cast<C*>(grad.data_ptr());
    for (int64_t k = 0; k < grad.numel(); k++) to[k] += sums[k];
    sums += grad.numel();
  }
}

// Calls run(rows, sums, scratch) for all rows, and adds up in order what each call sums.
template <typename Run>
void run_with_sums(int64_t num_rows, Dtype dtype, const LinearSizes& sizes,
                   std::initializer_list<Tensor> grads, Run run) {
  const Parts parts(num_rows, sizes.rows);
  const int64_t bytes = sizes.sums * (dtype == Dtype::float64 ? 8 : 4);
  thread_local Scratch memory;
  char* sums = memory.at_least(bytes * parts.count);
  run_tasks(parts.count, sizes.scratch_bytes,
            [&](int64_t i, char* scratch) { run(parts[i], sums + i * bytes, scratch); });
  for (int64_t i = 0; i < parts.count; i++)
    if (dtype == Dtype::float64)
      add_up(reinterpret_cast<const double*>(sums + i * bytes), grads);
    else
      add_up(reinterpret_cast<const float*>(sums + i * bytes), grads);
}

// What both directions of the map after a layer norm take.
struct NormLinearInputs {
  Tensor x, gain, shift, weight, bias;
  std::optional<Tensor> bytes;
  int64_t threshold;
  double epsilon;
  int64_t activation, first_activated;

  Checks fill(NormLinearParams& p) const {
    const Checks check("norm_linear", x, weight);
    p.num_rows = x.size(0), p.size = x.size(1), p.outputs = weight.size(0);
    p.dtype = check.dtype();
    p.x = check.numbers("x", x, {p.num_rows, p.size});
    p.gain = check.numbers("gain", gain, {p.size});
    p.shift = check.numbers("shift", shift, {p.size});
    p.weight = check.numbers("weight", weight, {p.outputs, p.size});
    p.bias = check.numbers("bias", bias, {p.outputs});
    p.epsilon = epsilon;
    STD_TORCH_CHECK(activation >= 0 && activation <= 2,
                    "norm_linear: activation must be 0, 1 or 2, got ", activation);
    p.activation = static_cast<Activation>(activation);
    STD_TORCH_CHECK(first_activated >= 0 && first_activated <= p.outputs &&
                        first_activated % kWholeVectors == 0,
                    "norm_linear: first_activated must be a multiple of ", kWholeVectors, " up to ",
                    p.outputs, ", got ", first_activated);
    p.first_activated = first_activated;
    p.bytes = check.bytes(bytes, threshold, {p.num_rows, p.outputs});
    p.threshold = threshold;
    STD_TORCH_CHECK(!threshold || (p.activation == Activation::relu && !first_activated),
                    "norm_linear: dropout follows a ReLU of all outputs");
    return check;
  }
};

Tensor norm_linear_fwd(Tensor x, Tensor gain, Tensor shift, Tensor weight, Tensor bias,
                       std::optional<Tensor> bytes, int64_t threshold, double epsilon,
                       int64_t activation, int64_t first_activated) {
  NormLinearParams p{};
  NormLinearInputs{x,     gain,      shift,   weight,     bias,
                   bytes, threshold, epsilon, activation, first_activated}
      .fill(p);
  Tensor output = torch::stable::new_empty(x, {p.num_rows, p.outputs});
  p.output = output.data_ptr();
  const Kernels& kernels = choose_kernels();
  const LinearSizes sizes = kernels.norm_linear_sizes(p);
  char* shared = shared_memory(sizes);
  kernels.norm_linear_pack(p, shared);
  const Parts parts(p.num_rows, sizes.rows);
  run_tasks(parts.count, sizes.scratch_bytes, [&](int64_t i, char* scratch) {
    kernels.norm_linear_forward(p, parts[i], shared, scratch);
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> norm_linear_bwd(
    Tensor grad_output, Tensor output, Tensor x, Tensor gain, Tensor shift, Tensor weight,
    Tensor bias, std::optional<Tensor> bytes, int64_t threshold, double epsilon, int64_t activation,
    int64_t first_activated) {
  NormLinearBackwardParams p{};
  const NormLinearInputs in{x,     gain,      shift,   weight,     bias,
                            bytes, threshold, epsilon, activation, first_activated};
  const Checks check = in.fill(p);
  p.grad_output = check.numbers("grad_output", grad_output, {p.num_rows, p.outputs});
  p.output = const_cast<void*>(check.numbers("output", output, {p.num_rows, p.outputs}));
  Tensor grad_x = torch::stable::new_empty(x, {p.num_rows, p.size});
  p.grad_x = grad_x.data_ptr();
  Tensor grad_weight = torch::stable::new_zeros(weight, {p.outputs, p.size});
  Tensor grad_bias = torch::stable::new_zeros(bias, {p.outputs});
  Tensor grad_gain = torch::stable::new_zeros(gain, {p.size});
  Tensor grad_shift = torch::stable::new_zeros(shift, {p.size});
  const Kernels& kernels = choose_kernels();
  run_with_sums(p.num_rows, p.dtype, kernels.norm_linear_sizes(p),
                {grad_weight, grad_bias, grad_gain, grad_shift},
                [&](Range rows, void* sums, char* scratch) {
                  kernels.norm_linear_backward(p, rows, sums, scratch);
                });
  return {grad_x, grad_gain, grad_shift, grad_weight, grad_bias};
}

// What both directions of the map before a residual take.
Checks fill(AddLinearParams& p, const Tensor& h, const Tensor& weight,
            const std::optional<Tensor>& bytes, int64_t threshold) {
  const Checks check("add_linear", h, weight);
  p.num_rows = h.size(0), p.inputs = h.size(1), p.size = weight.size(0);
  p.dtype = check.dtype();
  p.h = check.numbers("h", h, {p.num_rows, p.inputs});
  p.weight = check.numbers("weight", weight, {p.size, p.inputs});
  p.bytes = check.bytes(bytes, threshold, {p.num_rows, p.size});
  p.threshold = threshold;
  return check;
}

Tensor add_linear_fwd(Tensor x, Tensor h, Tensor weight, Tensor bias, std::optional<Tensor> bytes,
                      int64_t threshold) {
  AddLinearForwardParams p{};
  const Checks check = fill(p, h, weight, bytes, threshold);
  p.x = check.numbers("x", x, {p.num_rows, p.size});
  p.bias = check.numbers("bias", bias, {p.size});
  Tensor output = torch::stable::new_empty(x, {p.num_rows, p.size});
  p.output = output.data_ptr();
  const Kernels& kernels = choose_kernels();
  const LinearSizes sizes = kernels.add_linear_sizes(p);
  char* shared = shared_memory(sizes);
  kernels.add_linear_pack(p, shared);
  const Parts parts(p.num_rows, sizes.rows);
  run_tasks(parts.count, sizes.scratch_bytes, [&](int64_t i, char* scratch) {
    kernels.add_linear_forward(p, parts[i], shared, scratch);
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> add_linear_bwd(Tensor grad_output, Tensor h, Tensor weight,
                                                  std::optional<Tensor> bytes, int64_t threshold) {
  AddLinearBackwardParams p{};
  const Checks check = fill(p, h, weight, bytes, threshold);
  p.grad_output = check.numbers("grad_output", grad_output, {p.num_rows, p.size});
  Tensor grad_h = torch::stable::new_empty(h, {p.num_rows, p.inputs});
  p.grad_h = grad_h.data_ptr();
  Tensor grad_weight = torch::stable::new_zeros(weight, {p.size, p.inputs});
  Tensor grad_bias = torch::stable::new_zeros(weight, {p.size});
  const Kernels& kernels = choose_kernels();
  run_with_sums(p.num_rows, p.dtype, kernels.add_linear_sizes(p), {grad_weight, grad_bias},
                [&](Range rows, void* sums, char* scratch) {
                  kernels.add_linear_backward(p, rows, sums, scratch);
                });
  return {grad_h, grad_weight, grad_bias};
}

}  // namespace
}  // namespace emorec

STABLE_TORCH_LIBRARY_IMPL(emorec, CPU, m) {
  m.impl("norm_linear_fwd", TORCH_BOX(&emorec::norm_linear_fwd));
  m.impl("norm_linear_bwd", TORCH_BOX(&emorec::norm_linear_bwd));
  m.impl("add_linear_fwd", TORCH_BOX(&emorec::add_linear_fwd));
  m.impl("add_linear_bwd", TORCH_BOX(&emorec::add_linear_bwd));
}
