// Hawkes attention on the CPU: parameters of the kernels, and the pieces of work that are tasks.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "../hawkes_attention_params.h"
#include "host.h"
#include "kernels.h"

namespace emorec {
namespace {

// EMOREC_FAR_FIELD=0 sums every pair, for comparison.
bool far_field_allowed() {
  const char* value = std::getenv("EMOREC_FAR_FIELD");
  return !value || std::strcmp(value, "0") != 0;
}

int64_t longest(const HawkesForwardParams& p) {
  int64_t length = 0;
  STD_TORCH_CHECK(p.cu_seqlens[0] == 0 && p.cu_seqlens[p.num_sequences] == p.num_tokens,
                  "hawkes_attention: cu_seqlens must go from 0 to T = ", p.num_tokens, ", got ",
                  p.cu_seqlens[0], " to ", p.cu_seqlens[p.num_sequences]);
  for (int64_t b = 0; b < p.num_sequences; b++) {
    STD_TORCH_CHECK(p.cu_seqlens[b] <= p.cu_seqlens[b + 1],
                    "hawkes_attention: cu_seqlens must not fall, but does after place ", b);
    length = std::max(length, p.cu_seqlens[b + 1] - p.cu_seqlens[b]);
  }
  return length;
}

// Sequences in pieces of at most `rows` rows, the most work first so that threads end together. The
// pieces do not depend on the number of threads, and each writes its own outputs.
std::vector<Task> make_tasks(const HawkesForwardParams& p, int64_t rows) {
  std::vector<Task> tasks;
  for (int64_t b = 0; b < p.num_sequences; b++) {
    const int64_t length = p.cu_seqlens[b + 1] - p.cu_seqlens[b];
    for (int64_t row = 0; row < length; row += rows)
      tasks.push_back({b, row, std::min(row + rows, length)});
  }
  const auto work = [&](const Task& task) {
    const int64_t keys = p.causal ? task.last_row
                                  : p.cu_seqlens[task.sequence + 1] - p.cu_seqlens[task.sequence];
    return keys * (task.last_row - task.first_row);
  };
  std::stable_sort(tasks.begin(), tasks.end(),
                   [&](const Task& a, const Task& b) { return work(a) > work(b); });
  return tasks;
}

constexpr int64_t kForwardRows = 512;

std::tuple<Tensor, Tensor> hawkes_attention_fwd(
    Tensor query, std::optional<Tensor> key, Tensor value, Tensor time, Tensor position,
    Tensor cu_seqlens, Tensor decay_rate, Tensor inverse_window, std::optional<Tensor> seed,
    double scale, double dropout, bool additive, bool causal, bool mask_self, bool sum_heads) {
  HawkesForwardParams p{};
  fill_params(p, {query, key, value, time, position, cu_seqlens, decay_rate, inverse_window, seed,
                  scale, dropout, additive, causal, mask_self, sum_heads});
  const auto outputs = make_outputs(p, value);
  const Kernels& kernels = choose_kernels();
  const bool far_field = far_field_allowed();
  const std::vector<Task> tasks = make_tasks(p, kForwardRows);
  run_tasks(tasks.size(), kernels.scratch_bytes(p, longest(p), false),
            [&](int64_t i, char* scratch) { kernels.forward(p, tasks[i], scratch, far_field); });
  return outputs;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> hawkes_attention_bwd(
    Tensor grad_output, Tensor log_sum, Tensor query, std::optional<Tensor> key, Tensor value,
    Tensor time, Tensor position, Tensor cu_seqlens, Tensor decay_rate, Tensor inverse_window,
    std::optional<Tensor> seed, double scale, double dropout, bool additive, bool causal,
    bool mask_self, bool sum_heads) {
  const HawkesArguments arguments = {query, key, value, time, position, cu_seqlens, decay_rate,
                                     inverse_window, seed, scale, dropout, additive, causal,
                                     mask_self, sum_heads};
  HawkesBackwardParams p{};
  fill_params(p, arguments);
  const auto [grad_query, grad_key, grad_value] =
      make_gradients(p, grad_output, log_sum, arguments);
  // Each sequence's part, then their sum in order: the same for any number of threads.
  std::vector<double> parts(static_cast<size_t>(p.num_sequences * p.num_heads), 0.0);
  p.grad_decay_rate = parts.data();
  const Kernels& kernels = choose_kernels();
  const bool far_field = far_field_allowed();
  const int64_t length = longest(p);
  const std::vector<Task> tasks = make_tasks(p, std::max<int64_t>(length, 1));
  run_tasks(tasks.size(), kernels.scratch_bytes(p, length, true),
            [&](int64_t i, char* scratch) { kernels.backward(p, tasks[i], scratch, far_field); });
  Tensor grad_decay_rate = torch::stable::new_empty(decay_rate, {p.num_heads});
  double* total = static_cast<double*>(grad_decay_rate.data_ptr());
  for (int64_t h = 0; h < p.num_heads; h++) {
    total[h] = 0;
    for (int64_t b = 0; b < p.num_sequences; b++) total[h] += parts[b * p.num_heads + h];
  }
  return {grad_query, grad_key, grad_value, grad_decay_rate};
}

}  // namespace
}  // namespace emorec

STABLE_TORCH_LIBRARY_IMPL(emorec, CPU, m) {
  m.impl("hawkes_attention_fwd", TORCH_BOX(&emorec::hawkes_attention_fwd));
  m.impl("hawkes_attention_bwd", TORCH_BOX(&emorec::hawkes_attention_bwd));
}
