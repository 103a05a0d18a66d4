// The operators on the CPU: picks the kernels of the processor and spreads the work over threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "../hawkes_attention_params.h"
#include "kernels.h"

namespace emorec {
namespace {

// The widest kernels that the processor can run; EMOREC_ISA names others, for tests.
const Kernels& choose_kernels() {
  std::vector<const Kernels*> usable;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    usable.push_back(&kAvx512Kernels);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    usable.push_back(&kAvx2Kernels);
#endif
  usable.push_back(&kBaselineKernels);
  const char* wanted = std::getenv("EMOREC_ISA");
  if (!wanted || !*wanted) return *usable.front();
  std::string names;
  for (const Kernels* kernels : usable) {
    if (!std::strcmp(kernels->name, wanted)) return *kernels;
    names += std::string(names.empty() ? "" : ", ") + kernels->name;
  }
  STD_TORCH_CHECK(false, "EMOREC_ISA=", wanted, " is not one of ", names);
  return *usable.front();
}

// EMOREC_FAR_FIELD=0 sums every pair, for comparison.
bool far_field_allowed() {
  const char* value = std::getenv("EMOREC_FAR_FIELD");
  return !value || std::strcmp(value, "0") != 0;
}

// A thread's memory, kept from call to call: fresh pages cost more than the arithmetic.
class Scratch {
 public:
  ~Scratch() { std::free(memory_); }

  char* at_least(int64_t bytes) {
    if (bytes > size_) {
      std::free(memory_);
      size_ = (bytes + 4095) / 4096 * 4096;
      memory_ = static_cast<char*>(std::aligned_alloc(4096, static_cast<size_t>(size_)));
      if (!memory_) {
        size_ = 0;
        throw std::bad_alloc();
      }
    }
    return memory_;
  }

 private:
  char* memory_ = nullptr;
  int64_t size_ = 0;
};

Scratch& thread_scratch() {
  thread_local Scratch scratch;
  return scratch;
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

// Threads take the next task when they are done with one.
template <typename Run>
void run_tasks(const std::vector<Task>& tasks, int64_t scratch_bytes, Run run) {
  std::atomic<size_t> next{0};
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), tasks.size());
  torch::stable::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    char* scratch = thread_scratch().at_least(scratch_bytes);
    for (int64_t i = first; i < last; i++)
      for (size_t task; (task = next.fetch_add(1)) < tasks.size();) run(tasks[task], scratch);
  });
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
  run_tasks(make_tasks(p, kForwardRows), kernels.scratch_bytes(p, longest(p), false),
            [&](Task task, char* scratch) { kernels.forward(p, task, scratch, far_field); });
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
  run_tasks(make_tasks(p, std::max<int64_t>(length, 1)), kernels.scratch_bytes(p, length, true),
            [&](Task task, char* scratch) { kernels.backward(p, task, scratch, far_field); });
  Tensor grad_decay_rate = torch::stable::new_empty(decay_rate, {p.num_heads});
  double* total = static_cast<double*>(grad_decay_rate.data_ptr());
  for (int64_t h = 0; h < p.num_heads; h++) {
    total[h] = 0;
    for (int64_t b = 0; b < p.num_sequences; b++) total[h] += parts[b * p.num_heads + h];
  }
  return {grad_query, grad_key, grad_value, grad_decay_rate};
}

std::string instruction_set() { return choose_kernels().name; }

}  // namespace
}  // namespace emorec

STABLE_TORCH_LIBRARY_IMPL(emorec, CPU, m) {
  m.impl("hawkes_attention_fwd", TORCH_BOX(&emorec::hawkes_attention_fwd));
  m.impl("hawkes_attention_bwd", TORCH_BOX(&emorec::hawkes_attention_bwd));
}

STABLE_TORCH_LIBRARY_IMPL(emorec, CompositeExplicitAutograd, m) {
  m.impl("instruction_set", TORCH_BOX(&emorec::instruction_set));
}
