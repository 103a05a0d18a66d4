// Update of nodes on the CPU: parameters of the kernels, and tasks.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <tuple>
#include <vector>

#include "host.h"
#include "kernels.h"

namespace emorec {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// More nodes make fewer sums of weights' gradients to add up, fewer make more tasks for threads.
constexpr int64_t kTaskNodes = 768, kMostTasks = 64;
constexpr int64_t kWholeVectors = 16;  // numbers: whole vectors of any instruction set

const void* check(const char* name, const Tensor& tensor, ScalarType type,
                  std::initializer_list<int64_t> shape) {
  return checked_data("node_update", name, tensor, type, shape);
}

const void* check(const char* name, const std::optional<Tensor>& tensor, ScalarType type,
                  std::initializer_list<int64_t> shape) {
  return tensor ? check(name, *tensor, type, shape) : nullptr;
}

// Whether every row of others is named; none may be twice, or their gradients would be lost.
bool check_index(const NodeUpdateParams& p, int64_t num_others) {
  std::vector<bool> named(num_others);
  int64_t count = 0;
  for (int64_t i = 0; i < p.num_nodes * p.num_terms; i++) {
    const int32_t row = p.index[i];
    if (row < 0) continue;
    STD_TORCH_CHECK(row < num_others, "node_update: index ", row, " is out of range for ", num_others,
                    " rows of others");
    STD_TORCH_CHECK(!named[row], "node_update: index ", row, " comes twice");
    named[row] = true;
    count++;
  }
  return count == num_others;
}

struct KindRange {
  int64_t kind;
  Range nodes;
};

// Nodes of one kind each, whatever the number of threads.
std::vector<KindRange> make_tasks(const int64_t* offsets, int64_t num_kinds, int64_t tile) {
  std::vector<KindRange> tasks;
  const int64_t at_once = std::max(kTaskNodes, offsets[num_kinds] / kMostTasks);
  const int64_t nodes = (at_once + tile - 1) / tile * tile;
  for (int64_t kind = 0; kind < num_kinds; kind++)
    for (int64_t first = offsets[kind]; first < offsets[kind + 1]; first += nodes)
      tasks.push_back({kind, {first, std::min(first + nodes, offsets[kind + 1])}});
  return tasks;
}

// What both directions take.
struct Inputs {
  Tensor others, others_weight;
  std::optional<Tensor> own, own_weight, index, scale;
  Tensor gain, kind_offsets;

  ScalarType type() const { return others.scalar_type(); }

  const int64_t* offsets() const { return static_cast<const int64_t*>(kind_offsets.data_ptr()); }

  void fill(NodeUpdateParams& p) const {
    STD_TORCH_CHECK(type() == ScalarType::Float || type() == ScalarType::Double,
                    "node_update: others must be float32 or float64");
    STD_TORCH_CHECK(others_weight.dim() == 4 && own.has_value() == own_weight.has_value(),
                    "node_update: others_weight must be [K, J, D, D], own and own_weight come "
                    "together");
    p.num_kinds = others_weight.size(0), p.num_terms = others_weight.size(1);
    p.size = others_weight.size(3);
    STD_TORCH_CHECK(p.size % kWholeVectors == 0, "node_update: the size must be a multiple of ",
                    kWholeVectors, ", got ", p.size);
    check("kind_offsets", kind_offsets, ScalarType::Long, {p.num_kinds + 1});
    STD_TORCH_CHECK(offsets()[0] == 0 && std::is_sorted(offsets(), offsets() + p.num_kinds + 1),
                    "node_update: kind_offsets must rise from 0");
    p.num_nodes = offsets()[p.num_kinds];
    p.dtype = type() == ScalarType::Double ? Dtype::float64 : Dtype::float32;
    p.own = check("own", own, type(), {p.num_nodes, p.size});
    p.own_weight = check("own_weight", own_weight, type(), {p.num_kinds, p.size, p.size});
    p.index = static_cast<const int32_t*>(
        check("index", index, ScalarType::Int, {p.num_nodes, p.num_terms}));
    const int64_t rows = index && others.dim() ? others.size(0) : p.num_nodes * p.num_terms;
    p.others = check("others", others, type(), {rows, p.size});
    p.others_weight =
        check("others_weight", others_weight, type(), {p.num_kinds, p.num_terms, p.size, p.size});
    p.scale = check("scale", scale, type(), {p.num_terms, p.num_nodes});
    p.gain = check("gain", gain, type(), {p.size});
  }
};

std::tuple<Tensor, Tensor, Tensor> node_update_fwd(Tensor others, Tensor others_weight,
                                                   std::optional<Tensor> own,
                                                   std::optional<Tensor> own_weight,
                                                   std::optional<Tensor> index,
                                                   std::optional<Tensor> scale, Tensor gain,
                                                   Tensor kind_offsets, std::optional<Tensor> bias,
                                                   Tensor shift, double epsilon, bool elu) {
  const Inputs in{others, others_weight, own, own_weight, index, scale, gain, kind_offsets};
  NodeUpdateForwardParams p{};
  in.fill(p);
  if (index) check_index(p, others.size(0));
  p.bias = check("bias", bias, in.type(), {p.num_kinds, p.size});
  p.shift = check("shift", shift, in.type(), {p.size});
  p.epsilon = epsilon, p.elu = elu;
  Tensor output = torch::stable::new_empty(others, {p.num_nodes, p.size});
  Tensor activated = torch::stable::new_empty(others, {p.num_nodes, p.size});
  Tensor statistics = torch::stable::new_empty(others, {p.num_nodes, 2});
  p.output = output.data_ptr(), p.activated = activated.data_ptr();
  p.statistics = statistics.data_ptr();

  const Kernels& kernels = choose_kernels();
  const NodeUpdateSizes sizes = kernels.update_sizes(p);
  thread_local Scratch memory;
  char* shared = memory.at_least(sizes.shared_bytes);
  kernels.update_pack(p, shared);
  const std::vector<KindRange> tasks = make_tasks(in.offsets(), p.num_kinds, sizes.nodes);
  run_tasks(tasks.size(), sizes.scratch_bytes, [&](int64_t i, char* scratch) {
    kernels.update_forward(p, tasks[i].kind, tasks[i].nodes, shared, scratch);
  });
  return {output, activated, statistics};
}

// Adds up what the tasks made, in their order.
template <typename C>
void add_sums(const NodeUpdateParams& p, const std::vector<KindRange>& tasks, const C* sums,
              int64_t count, std::initializer_list<Tensor> grads) {
  // Of the kinds' own [D, D] and [J, D, D], of their biases, and of what all kinds share.
  const int64_t square = p.size * p.size;
  const int64_t lengths[] = {p.own ? square : 0, p.num_terms * square, p.size, p.size, p.size};
  for (size_t i = 0; i < tasks.size(); i++) {
    const C* from = sums + i * count;
    int part = 0;
    for (const Tensor& grad : grads) {
      const int64_t first = part < 3 ? tasks[i].kind * lengths[part] : 0;
      C* to = static_cast<C*>(grad.data_ptr()) + first;
      for (int64_t d = 0; d < lengths[part]; d++) to[d] += from[d];
      from += lengths[part++];
    }
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> node_update_bwd(
    Tensor grad_output, Tensor others, Tensor others_weight, std::optional<Tensor> own,
    std::optional<Tensor> own_weight, std::optional<Tensor> index, std::optional<Tensor> scale,
    Tensor gain, Tensor kind_offsets, Tensor activated, Tensor statistics, bool elu) {
  const Inputs in{others, others_weight, own, own_weight, index, scale, gain, kind_offsets};
  NodeUpdateBackwardParams p{};
  in.fill(p);
  p.elu = elu;
  p.grad_output = check("grad_output", grad_output, in.type(), {p.num_nodes, p.size});
  p.activated = const_cast<void*>(check("activated", activated, in.type(), {p.num_nodes, p.size}));
  p.statistics = const_cast<void*>(check("statistics", statistics, in.type(), {p.num_nodes, 2}));
  const bool all_named = !index || check_index(p, others.size(0));
  const auto zeros = [&](std::initializer_list<int64_t> shape) {
    return torch::stable::new_zeros(others, shape);
  };
  Tensor grad_own = torch::stable::new_empty(others, {own ? p.num_nodes : 0, p.size});
  Tensor grad_others = all_named ? torch::stable::new_empty(others, {others.size(0), p.size})
                                 : zeros({others.size(0), p.size});
  Tensor grad_own_weight = zeros({own ? p.num_kinds : 0, p.size, p.size});
  Tensor grad_others_weight = zeros({p.num_kinds, p.num_terms, p.size, p.size});
  Tensor grad_bias = zeros({p.num_kinds, p.size});
  Tensor grad_gain = zeros({p.size}), grad_shift = zeros({p.size});
  p.grad_own = grad_own.data_ptr(), p.grad_others = grad_others.data_ptr();

  const Kernels& kernels = choose_kernels();
  const NodeUpdateSizes sizes = kernels.update_sizes(p);
  const std::vector<KindRange> tasks = make_tasks(in.offsets(), p.num_kinds, sizes.nodes);
  const int64_t bytes = sizes.sums * (p.dtype == Dtype::float64 ? 8 : 4);
  thread_local Scratch memory;
  char* sums = memory.at_least(bytes * tasks.size());
  run_tasks(tasks.size(), sizes.scratch_bytes, [&](int64_t i, char* scratch) {
    kernels.update_backward(p, tasks[i].kind, tasks[i].nodes, sums + i * bytes, scratch);
  });
  const auto add = [&](auto* numbers) {
    add_sums(p, tasks, numbers, sizes.sums,
             {grad_own_weight, grad_others_weight, grad_bias, grad_gain, grad_shift});
  };
  if (p.dtype == Dtype::float64)
    add(reinterpret_cast<const double*>(sums));
  else
    add(reinterpret_cast<const float*>(sums));
  return {grad_others, grad_others_weight, grad_own,  grad_own_weight,
          grad_bias,   grad_gain,          grad_shift};
}

}  // namespace
}  // namespace emorec

STABLE_TORCH_LIBRARY_IMPL(emorec, CPU, m) {
  m.impl("node_update_fwd", TORCH_BOX(&emorec::node_update_fwd));
  m.impl("node_update_bwd", TORCH_BOX(&emorec::node_update_bwd));
}
