// Attention over the edges of a graph on the CPU: checks, parameters of the kernels, and tasks.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <initializer_list>
#include <tuple>
#include <vector>

#include "host.h"
#include "kernels.h"

namespace emorec {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kTaskWork = 1 << 14;  // edges and nodes of one task

void check(const char* name, const Tensor& tensor, ScalarType type,
           std::initializer_list<int64_t> shape) {
  checked_data("graph_attention", name, tensor, type, shape);
}

// Edges sorted by one end: where those of each node begin, and the other ends.
void check_edges(const Tensor& offsets, int64_t nodes, const Tensor& ends, int64_t num_ends) {
  check("offsets", offsets, ScalarType::Int, {nodes + 1});
  check("ends of edges", ends, ScalarType::Int, {ends.numel()});
  const int32_t* offset = static_cast<const int32_t*>(offsets.data_ptr());
  STD_TORCH_CHECK(
      offset[0] == 0 && offset[nodes] == ends.numel() && std::is_sorted(offset, offset + nodes + 1),
      "graph_attention: offsets must rise from 0 to the ", ends.numel(), " edges");
  const uint32_t* end = static_cast<const uint32_t*>(ends.data_ptr());
  uint32_t last = 0;  // an index below 0 is a large one here
  for (int64_t e = 0; e < ends.numel(); e++) last = std::max(last, end[e]);
  STD_TORCH_CHECK(!ends.numel() || last < num_ends, "graph_attention: an edge ends at node ",
                  static_cast<int32_t>(last), ", which is out of range for ", num_ends, " nodes");
}

void fill(GraphAttentionParams& p, const Tensor& x, const Tensor& left, const Tensor& right,
          double slope) {
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double,
                  "graph_attention: x must be float32 or float64");
  STD_TORCH_CHECK(x.dim() == 3 && right.dim() == 2,
                  "graph_attention: x must be [U, H, N] and right [V, H]");
  p.num_sources = x.size(0), p.num_targets = right.size(0);
  p.num_heads = x.size(1), p.size = x.size(2);
  check("x", x, type, {p.num_sources, p.num_heads, p.size});
  check("left", left, type, {p.num_sources, p.num_heads});
  check("right", right, type, {p.num_targets, p.num_heads});
  p.dtype = type == ScalarType::Double ? Dtype::float64 : Dtype::float32;
  p.x = x.data_ptr(), p.left = left.data_ptr(), p.right = right.data_ptr();
  p.slope = slope;
}

// Nodes in ranges of about equal work, whatever the number of threads.
std::vector<Range> make_ranges(const int32_t* offsets, int64_t nodes) {
  std::vector<Range> ranges;
  for (Range next{0, 0}; next.first < nodes; next.first = next.last) {
    const int64_t limit = offsets[next.first] + next.first + kTaskWork;
    for (next.last = next.first + 1; next.last < nodes; next.last++)
      if (offsets[next.last + 1] + next.last + 1 > limit) break;
    ranges.push_back(next);
  }
  return ranges;
}

template <typename Params, typename Pack, typename Kernel>
void run(const Params& p, bool backward, const int32_t* offsets, int64_t nodes, Pack pack,
         Kernel kernel) {
  const GraphSizes sizes = choose_kernels().graph_sizes(p, backward);
  thread_local Scratch memory;
  char* shared = memory.at_least(sizes.shared_bytes);
  pack(p, shared);
  const std::vector<Range> ranges = make_ranges(offsets, nodes);
  run_tasks(ranges.size(), sizes.scratch_bytes,
            [&](int64_t i, char* scratch) { kernel(p, ranges[i], shared, scratch); });
}

// The edges by source are the backward's, for which autograd saves them.
std::tuple<Tensor, Tensor, Tensor> graph_attention_fwd(Tensor x, Tensor left, Tensor right,
                                                       Tensor offsets, Tensor source,
                                                       Tensor /* source_offsets */,
                                                       Tensor /* target */, double slope) {
  GraphAttentionForwardParams p{};
  fill(p, x, left, right, slope);
  check_edges(offsets, p.num_targets, source, p.num_sources);
  p.offsets = static_cast<const int32_t*>(offsets.data_ptr());
  p.source = static_cast<const int32_t*>(source.data_ptr());
  Tensor output = torch::stable::new_empty(x, {p.num_targets, p.num_heads, p.size});
  Tensor above = torch::stable::new_empty(x, {p.num_targets, p.num_heads, p.size});
  Tensor totals = torch::stable::new_empty(x, {p.num_targets, 3, p.num_heads});
  p.output = output.data_ptr(), p.above = above.data_ptr(), p.totals = totals.data_ptr();
  const Kernels& kernels = choose_kernels();
  run(p, false, p.offsets, p.num_targets, kernels.graph_pack, kernels.graph_targets);
  return {output, above, totals};
}

std::tuple<Tensor, Tensor, Tensor> graph_attention_bwd(Tensor grad_output, Tensor x, Tensor left,
                                                       Tensor right, Tensor source_offsets,
                                                       Tensor target, Tensor output, Tensor above,
                                                       Tensor totals, double slope) {
  GraphAttentionBackwardParams p{};
  fill(p, x, left, right, slope);
  check_edges(source_offsets, p.num_sources, target, p.num_targets);
  const ScalarType type = x.scalar_type();
  check("grad_output", grad_output, type, {p.num_targets, p.num_heads, p.size});
  check("output", output, type, {p.num_targets, p.num_heads, p.size});
  check("above", above, type, {p.num_targets, p.num_heads, p.size});
  check("totals", totals, type, {p.num_targets, 3, p.num_heads});
  p.output = output.data_ptr(), p.above = above.data_ptr(), p.totals = totals.data_ptr();
  p.source_offsets = static_cast<const int32_t*>(source_offsets.data_ptr());
  p.target = static_cast<const int32_t*>(target.data_ptr());
  p.grad_output = grad_output.data_ptr();
  Tensor grad_x = torch::stable::new_empty(x, {p.num_sources, p.num_heads, p.size});
  Tensor grad_left = torch::stable::new_empty(x, {p.num_sources, p.num_heads});
  Tensor grad_right = torch::stable::new_empty(x, {p.num_targets, p.num_heads});
  p.grad_x = grad_x.data_ptr(), p.grad_left = grad_left.data_ptr();
  p.grad_right = grad_right.data_ptr();
  const Kernels& kernels = choose_kernels();
  run(p, true, p.source_offsets, p.num_sources, kernels.graph_pack_gradient, kernels.graph_sources);
  return {grad_x, grad_left, grad_right};
}

}  // namespace
}  // namespace emorec

STABLE_TORCH_LIBRARY_IMPL(emorec, CPU, m) {
  m.impl("graph_attention_fwd", TORCH_BOX(&emorec::graph_attention_fwd));
  m.impl("graph_attention_bwd", TORCH_BOX(&emorec::graph_attention_bwd));
}
