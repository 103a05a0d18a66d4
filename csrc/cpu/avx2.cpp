// The kernels for AVX2 and FMA. See baseline.cpp.
#include "kernels.h"

#if defined(__x86_64__)
#define EMOREC_VECTOR_BYTES 32
#define EMOREC_VECTORS_PER_PANEL 2  // 6 x 2 sums, 2 vectors of B and 1 of A in 16 registers
#define EMOREC_ROWS_PER_TILE 6

#pragma GCC target("avx2,fma")
namespace emorec {
namespace avx2 {
#include "lanes.inl"
#include "gemm.inl"
#include "packing.inl"
#include "decay.inl"
#include "far_field.inl"
#include "attention.inl"
#include "softmax_loss.inl"
#include "graph_attention.inl"
#include "node_update.inl"
}  // namespace avx2
const Kernels kAvx2Kernels = {
    "avx2",
    avx2::scratch_bytes,
    avx2::forward,
    avx2::backward,
    avx2::softmax_sizes,
    avx2::softmax_pack,
    avx2::softmax_states,
    avx2::softmax_items,
    avx2::graph_sizes,
    avx2::graph_pack,
    avx2::graph_targets,
    avx2::graph_pack_gradient,
    avx2::graph_sources,
    avx2::update_sizes,
    avx2::update_pack,
    avx2::update_forward,
    avx2::update_backward,
};
}  // namespace emorec
#endif
