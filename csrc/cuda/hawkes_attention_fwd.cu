#include "hawkes_attention_fwd.cuh"

#include "hawkes_attention_cuda.h"
#include "launch.cuh"

namespace emorec {

cudaError_t launch_hawkes_attention_fwd(const HawkesForwardParams& params, bool tf32,
                                        cudaStream_t stream) {
  return dispatch(params, tf32, [&](auto math, auto head_size) {
    using Math = decltype(math);
    using Shape = TileShape<Math, head_size.value, false>;
    return launch(hawkes_attention_fwd_kernel<Math, Shape::kHeadSize>,
                  num_slots(params.num_tokens, params.num_sequences, Shape::kRows),
                  (params.sum_heads ? 1 : params.num_heads) * (Shape::kHeadSize / Shape::kChunk),
                  Shape::kThreads, sizeof(ForwardMemory<Math, Shape>), params, stream);
  });
}

}  // namespace emorec
