// The kernels for the least that the compiler's target has: SSE2 on x86-64, NEON on aarch64.
//
// The same source is compiled once per instruction set, each time in an unnamed namespace and with
// everything that it calls: the linker would merge a function that two of them share, and might
// keep the copy that an older processor cannot run. So the .inl files include no headers. Without
// linkage the compiler also inlines what is called once, such as the steps of the attention.
#include "kernels.h"

#if defined(__aarch64__)
#define EMOREC_NAME "neon"
#define EMOREC_VECTORS_PER_PANEL 4  // 32 registers
#else
#define EMOREC_NAME "baseline"
#define EMOREC_VECTORS_PER_PANEL 2  // 16 registers
#endif
#define EMOREC_VECTOR_BYTES 16
#define EMOREC_ROWS_PER_TILE 6

namespace emorec {
namespace {
#include "table.inl"
}  // namespace
const Kernels kBaselineKernels = kTable;
}  // namespace emorec
