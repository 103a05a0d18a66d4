#include "hawkes_attention_bwd.cuh"

#include "launch.cuh"

namespace emorec {

cudaError_t launch_hawkes_attention_bwd(const HawkesBackwardParams& params,
                                        const HawkesBackwardWorkspace& workspace, bool tf32,
                                        cudaStream_t stream) {
  const HawkesBackwardArguments arguments = {params, workspace};
  const cudaError_t error = dispatch(params, tf32, [&](auto math, auto head_size) {
    using Math = decltype(math);
    using Shape = TileShape<Math, head_size.value, true>;
    const auto launch_side = [&](auto kernel) {
      return launch(
          kernel, num_slots(params.num_tokens, params.num_sequences, Shape::kRows),
          (params.shared_scores ? 1 : params.num_heads) * (Shape::kHeadSize / Shape::kChunk),
          Shape::kThreads, sizeof(BackwardMemory<Math, Shape>), arguments, stream);
    };
    const cudaError_t queries_error =
        launch_side(hawkes_attention_bwd_kernel<Math, Shape::kHeadSize, true>);
    if (queries_error != cudaSuccess) return queries_error;
    return launch_side(hawkes_attention_bwd_kernel<Math, Shape::kHeadSize, false>);
  });
  if (error != cudaSuccess) return error;
  return launch(hawkes_attention_reduce_kernel, params.num_sequences, params.num_heads,
                kReduceThreads, kReduceThreads * sizeof(double), arguments, stream);
}

}  // namespace emorec
