// The kernels for AVX-512. See baseline.cpp.
#include "kernels.h"

#if defined(__x86_64__)
#define EMOREC_VECTOR_BYTES 64
#define EMOREC_VECTORS_PER_PANEL 4  // 6 x 4 sums, 4 vectors of B and 1 of A in 32 registers
#define EMOREC_ROWS_PER_TILE 6

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
namespace emorec {
namespace avx512 {
#include "lanes.inl"
#include "gemm.inl"
#include "packing.inl"
#include "decay.inl"
#include "far_field.inl"
#include "attention.inl"
#include "softmax_loss.inl"
#include "graph_attention.inl"
#include "node_update.inl"
}  // namespace avx512
const Kernels kAvx512Kernels = {
    "avx512",
    avx512::scratch_bytes,
    avx512::forward,
    avx512::backward,
    avx512::softmax_sizes,
    avx512::softmax_pack,
    avx512::softmax_states,
    avx512::softmax_items,
    avx512::graph_sizes,
    avx512::graph_pack,
    avx512::graph_targets,
    avx512::graph_pack_gradient,
    avx512::graph_sources,
    avx512::update_sizes,
    avx512::update_pack,
    avx512::update_forward,
    avx512::update_backward,
};
}  // namespace emorec
#endif
