// The kernels for AVX2 and FMA. See baseline.cpp.
#include "kernels.h"

#if defined(__x86_64__)
#define EMOREC_NAME "avx2"
#define EMOREC_VECTOR_BYTES 32
#define EMOREC_VECTORS_PER_PANEL 2  // 6 x 2 sums, 2 vectors of B and 1 of A in 16 registers
#define EMOREC_ROWS_PER_TILE 6

#pragma GCC target("avx2,fma")
namespace emorec {
namespace {
#include "table.inl"
}  // namespace
const Kernels kAvx2Kernels = kTable;
}  // namespace emorec
#endif
