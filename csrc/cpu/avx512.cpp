// The kernels for AVX-512. See baseline.cpp.
#include "kernels.h"

#if defined(__x86_64__)
#define EMOREC_NAME "avx512"
#define EMOREC_VECTOR_BYTES 64
#define EMOREC_VECTORS_PER_PANEL 4  // 6 x 4 sums, 4 vectors of B and 1 of A in 32 registers
#define EMOREC_ROWS_PER_TILE 6

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
namespace emorec {
namespace {
#include "table.inl"
}  // namespace
const Kernels kAvx512Kernels = kTable;
}  // namespace emorec
#endif
