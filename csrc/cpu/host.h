// What the operators on the CPU share: the kernels of the processor, memory and threads.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <initializer_list>
#include <new>

#include "kernels.h"

namespace emorec {

// The widest kernels that the processor can run; EMOREC_ISA names others, for tests.
const Kernels& choose_kernels();

// The data of an operator's tensor, which must be contiguous and of this type and shape.
inline const void* checked_data(const char* op, const char* name,
                                const torch::stable::Tensor& tensor,
                                torch::headeronly::ScalarType type,
                                std::initializer_list<int64_t> shape) {
  bool fits = tensor.scalar_type() == type && tensor.is_contiguous() &&
              tensor.dim() == static_cast<int64_t>(shape.size());
  for (int64_t d = 0; fits && d < tensor.dim(); d++) fits = tensor.size(d) == shape.begin()[d];
  STD_TORCH_CHECK(fits, op, ": ", name,
                  " must be contiguous, and of the dtype and shape that the others ask for");
  return tensor.data_ptr();
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

inline Scratch& thread_scratch() {
  thread_local Scratch scratch;
  return scratch;
}

// Calls run(task, scratch) for the tasks 0 to num_tasks - 1. Threads take the next task when they
// are done with one. The first store and the last load of the counter order the tasks after what
// comes before them and before what follows. So does parallel_for, but in OpenMP, where
// ThreadSanitizer does not see it.
template <typename Run>
void run_tasks(int64_t num_tasks, int64_t scratch_bytes, Run run) {
  std::atomic<int64_t> next;
  next.store(0);
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), num_tasks);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    char* scratch = thread_scratch().at_least(scratch_bytes);
    for (int64_t i = first; i < last; i++)
      for (int64_t task; (task = next.fetch_add(1)) < num_tasks;) run(task, scratch);
  });
  next.load();
}

}  // namespace emorec
