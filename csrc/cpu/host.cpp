// See host.h.
#include "host.h"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace emorec {

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

namespace {
std::string instruction_set() { return choose_kernels().name; }
}  // namespace

}  // namespace emorec

STABLE_TORCH_LIBRARY_IMPL(emorec, CompositeExplicitAutograd, m) {
  m.impl("instruction_set", TORCH_BOX(&emorec::instruction_set));
}
