// Cross-entropy over the catalogue on the CPU: chunks of states, and their work as tasks.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "host.h"
#include "kernels.h"

namespace emorec {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Errors of a chunk fill some MiB, which the last cache holds until the items' gradient has read
// them; fewer states than this would make that gradient wait for memory.
constexpr int64_t kChunkErrors = 1 << 20, kLeastChunk = 96;

void check(const char* name, const Tensor& tensor, ScalarType type, int64_t rows, int64_t columns) {
  checked_data("softmax_loss", name, tensor, type, {rows, columns});
}

std::tuple<Tensor, Tensor, Tensor> softmax_loss(Tensor state, Tensor items, Tensor target,
                                                Tensor wanted) {
  const ScalarType type = state.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double,
                  "softmax_loss: state must be float32 or float64");
  STD_TORCH_CHECK(state.dim() == 2 && items.dim() == 2 && target.dim() == 2,
                  "softmax_loss: state, items and target must have two dimensions");
  SoftmaxLossParams p{};
  p.num_states = state.size(0), p.num_items = items.size(0);
  p.num_targets = target.size(1), p.size = state.size(1);
  check("state", state, type, p.num_states, p.size);
  check("items", items, type, p.num_items, p.size);
  check("target", target, ScalarType::Long, p.num_states, p.num_targets);
  check("wanted", wanted, ScalarType::Bool, p.num_states, p.num_targets);
  p.dtype = type == ScalarType::Double ? Dtype::float64 : Dtype::float32;
  p.state = state.data_ptr();
  p.items = items.data_ptr();
  p.target = static_cast<const int64_t*>(target.data_ptr());
  p.wanted = static_cast<const bool*>(wanted.data_ptr());
  for (int64_t k = 0; k < p.num_states * p.num_targets; k++) {
    p.num_wanted += p.wanted[k];
    STD_TORCH_CHECK(p.target[k] >= 0 && p.target[k] < p.num_items, "softmax_loss: target ",
                    p.target[k], " is out of range for ", p.num_items, " items");
  }
  STD_TORCH_CHECK(p.num_wanted > 0, "softmax_loss: no target counts");

  std::vector<double> loss(p.num_states);
  Tensor grad_state = torch::stable::new_empty(state, {p.num_states, p.size});
  Tensor grad_items = torch::stable::new_empty(items, {p.num_items, p.size});
  p.loss = loss.data();
  p.grad_state = grad_state.data_ptr();
  p.grad_items = grad_items.data_ptr();
  p.chunk = std::min(std::max(kChunkErrors / p.num_items, kLeastChunk), p.num_states);

  const Kernels& kernels = choose_kernels();
  const SoftmaxSizes sizes = kernels.softmax_sizes(p);
  thread_local Scratch memory;
  char* shared = memory.at_least(sizes.shared_bytes);
  kernels.softmax_pack(p, shared);
  for (Range chunk{0, 0}; chunk.first < p.num_states; chunk.first = chunk.last) {
    chunk.last = std::min(chunk.first + p.chunk, p.num_states);
    const auto in_tasks = [&](Range all, int64_t size, auto kernel) {
      run_tasks((all.last - all.first + size - 1) / size, sizes.scratch_bytes,
                [&](int64_t task, char* scratch) {
                  const int64_t first = all.first + task * size;
                  kernel(p, chunk, {first, std::min(first + size, all.last)}, shared, scratch);
                });
    };
    in_tasks(chunk, sizes.states, kernels.softmax_states);
    in_tasks({0, p.num_items}, sizes.items, kernels.softmax_items);
  }
  double total = 0;  // in order, whatever the threads
  for (double each : loss) total += each;
  Tensor mean = torch::stable::new_empty(state, std::vector<int64_t>{}, ScalarType::Double);
  *static_cast<double*>(mean.data_ptr()) = total / static_cast<double>(p.num_wanted);
  return {mean, grad_state, grad_items};
}

}  // namespace
}  // namespace emorec

STABLE_TORCH_LIBRARY_IMPL(emorec, CPU, m) {
  m.impl("softmax_loss", TORCH_BOX(&emorec::softmax_loss));
}
