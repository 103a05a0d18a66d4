// The kernels for the least that the compiler's target has: SSE2 on x86-64, NEON on aarch64.
//
// The same source is compiled once per instruction set, each time in a namespace of its own and
// with everything it calls: a function shared between two of them would be merged by the linker,
// which might pick the copy that an older processor cannot run. So the .inl files include nothing.
#include "kernels.h"

#if defined(__aarch64__)
#define EMOREC_VECTORS_PER_PANEL 4  // 32 registers
#else
#define EMOREC_VECTORS_PER_PANEL 2  // 16 registers
#endif
#define EMOREC_VECTOR_BYTES 16
#define EMOREC_ROWS_PER_TILE 6

namespace emorec {
namespace baseline {
#include "lanes.inl"
#include "gemm.inl"
#include "packing.inl"
#include "decay.inl"
#include "far_field.inl"
#include "attention.inl"
#include "softmax_loss.inl"
#include "graph_attention.inl"
#include "node_update.inl"
}  // namespace baseline

#if defined(__aarch64__)
#define EMOREC_NAME "neon"
#else
#define EMOREC_NAME "baseline"
#endif
const Kernels kBaselineKernels = {
    EMOREC_NAME,
    baseline::scratch_bytes,
    baseline::forward,
    baseline::backward,
    baseline::softmax_sizes,
    baseline::softmax_pack,
    baseline::softmax_states,
    baseline::softmax_items,
    baseline::graph_sizes,
    baseline::graph_pack,
    baseline::graph_targets,
    baseline::graph_pack_gradient,
    baseline::graph_sources,
    baseline::update_sizes,
    baseline::update_pack,
    baseline::update_forward,
    baseline::update_backward,
};
}  // namespace emorec
