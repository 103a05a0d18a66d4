// Backward kernel: recomputes the scores from the inputs. It runs twice. First a block owns queries
// and streams keys: grad_query, the rows' share of grad_decay_rate, and two numbers per row that
// the second run needs. Then a block owns keys and streams queries: grad_key and grad_value. Each
// sum belongs to one block, in the order of tokens, so that results are the same in every run.
#pragma once

#include "hawkes_attention_cuda.h"
#include "tiles.cuh"

namespace emorec {

template <class Math, class Shape>
struct BackwardMemory {
  using Element = typename Math::Element;
  alignas(16) Element own_x[Shape::kRows * Shape::kStride];  // queries or keys
  alignas(16) Element own_y[Shape::kRows * Shape::kStride];  // gradients of outputs, or values
  alignas(16) Element other_x[Shape::kCols * Shape::kStride];
  alignas(16) Element other_y[Shape::kCols * Shape::kStride];
  alignas(16) Element scores[Shape::kRows * Shape::kScoreStride];
  Token others[Shape::kCols];
};

// Adds what the forward (log_sum) and the run that owns queries (the others) found out.
__device__ __forceinline__ Token load_query(const HawkesBackwardParams& p,
                                            const HawkesBackwardWorkspace& workspace,
                                            const Rows& rows, int place, int64_t head) {
  Token token = load_token(p, rows, place, head);
  if (place >= rows.length) return token;
  const int64_t at = (rows.sequence_start + place) * p.num_heads + head;
  token.log_sum = static_cast<const float*>(p.log_sum)[at];
  token.inverse_sum = workspace.inverse_sum[at];
  token.delta = workspace.delta[at];
  return token;
}

// One pair of tokens: replaces s, the product of query and key, by the score's gradient, and c,
// that of upstream gradient and value, by the weight after dropout.
template <class Math, bool kOwnQueries, bool kConfined>
__device__ __forceinline__ void differentiate_pair(const Score& score, float a, float kept,
                                                   const Token& query, float& s, float& c,
                                                   float& grad_rate) {
  a *= query.inverse_sum;
  const float grad_score = a * (c - query.delta);
  grad_rate -= grad_score * score.elapsed;
  s = kConfined && a == 0.0f ? 0.0f : grad_score * score.weight;
  c = a * kept;
}

// Turns a thread's sums over the keys of its two rows into what the second pass needs of them.
__device__ __forceinline__ void finish_first_pass(float (&sum)[2], const float (&delta)[2],
                                                  Token (&own)[2]) {
  for (int r = 0; r < 2; ++r) {
    sum[r] = row_sum(sum[r]);
    own[r].inverse_sum = sum[r] > 0.0f ? 1.0f / sum[r] : 0.0f;
    own[r].delta = row_sum(delta[r]) * own[r].inverse_sum;
  }
}

struct HawkesBackwardArguments {
  HawkesBackwardParams params;
  HawkesBackwardWorkspace workspace;
};

template <class Math, int kHeadSize, bool kOwnQueries>
__global__ void __launch_bounds__(TileShape<Math, kHeadSize, true>::kThreads,
                                  TileShape<Math, kHeadSize, true>::kBlocks)
    hawkes_attention_bwd_kernel(const __grid_constant__ HawkesBackwardArguments arguments) {
  using Shape = TileShape<Math, kHeadSize, true>;
  constexpr int kRows = Shape::kRows, kCols = Shape::kCols, kChunk = Shape::kChunk;
  // Whether NaN of a query is kept from the keys of the tile that it does not attend to. Kernels of
  // wider heads have no register left for it.
  constexpr bool kConfined = !kOwnQueries && kHeadSize < 128;
  const HawkesBackwardParams& p = arguments.params;
  const HawkesBackwardWorkspace& workspace = arguments.workspace;
  static_assert(sizeof(BackwardMemory<Math, Shape>) <= kSharedBytes, "tiles too large");
  auto& shared = *static_cast<BackwardMemory<Math, Shape>*>(dynamic_shared_memory());

  const Rows rows = find_rows<kRows>(p.cu_seqlens, p.num_sequences, blockIdx.x);
  if (rows.first_row >= rows.length) return;
  const int64_t first_token = rows.sequence_start + rows.first_row;
  const int num_rows = min(kRows, rows.length - rows.first_row);
  const int begin = p.causal && !kOwnQueries ? rows.first_row / kCols * kCols : 0;
  const int end = p.causal && kOwnQueries ? rows.first_row + num_rows : rows.length;
  const int warp_row = threadIdx.x / 32 * 16;
  auto* strip = shared.scores + warp_row * Shape::kScoreStride;
  const auto* warp_x = shared.own_x + warp_row * Shape::kStride;
  const auto* warp_y = shared.own_y + warp_row * Shape::kStride;
  const int first_column = blockIdx.y % (kHeadSize / kChunk) * kChunk;
  const int block_head = blockIdx.y / (kHeadSize / kChunk);
  const float scale = static_cast<float>(p.scale);
  const Dropout dropout(p);
  const ConstVectors& own_x = kOwnQueries ? p.query : p.key;
  const ConstVectors& own_y = kOwnQueries ? p.grad_output : p.value;
  const ConstVectors& other_x = kOwnQueries ? p.key : p.query;
  const ConstVectors& other_y = kOwnQueries ? p.value : p.grad_output;
  const int query_size = static_cast<int>(p.query_size);
  const int value_size = static_cast<int>(p.value_size);

  float grad_x[kChunk / 8][4] = {};  // of queries or keys: over all heads that share them
  const int last_head = p.shared_scores ? static_cast<int>(p.num_heads) - 1 : block_head;
  for (int head = block_head; head <= last_head; ++head) {
    const float rate = static_cast<float>(p.decay_rate[head]);
    const float inverse_window = static_cast<float>(p.inverse_window[head]);

    __syncthreads();  // the tiles of the head before are used up
    load_tile<Shape, Math, kRows, kHeadSize>(shared.own_x, own_x, first_token, head, num_rows, 0,
                                             query_size);
    load_tile<Shape, Math, kRows, kHeadSize>(shared.own_y, own_y, first_token, head, num_rows, 0,
                                             value_size);
    Token own[2];
    for (int r = 0; r < 2; ++r) {
      const int place = rows.first_row + warp_row + fragment_row(2 * r);
      own[r] = load_token(p, rows, place, head);
      if (kOwnQueries && place < rows.length)
        own[r].log_sum = static_cast<const float*>(
            p.log_sum)[(rows.sequence_start + place) * p.num_heads + head];
    }

    const auto load_others = [&](int first) {
      const int64_t token = rows.sequence_start + first;
      const int count = rows.length - first;
      load_tile<Shape, Math, kCols, kHeadSize>(shared.other_x, other_x, token, head, count, 0,
                                               query_size);
      cp_async_commit();
      load_tile<Shape, Math, kCols, kHeadSize>(shared.other_y, other_y, token, head, count, 0,
                                               value_size);
      cp_async_commit();
      if (threadIdx.x < kCols)
        shared.others[threadIdx.x] =
            kOwnQueries ? load_token(p, rows, first + threadIdx.x, head)
                        : load_query(p, workspace, rows, first + threadIdx.x, head);
    };

    float grad_y[kChunk / 8][4] = {};  // of values
    float sum[2] = {}, delta[2] = {}, grad_rate[2] = {};
    // A first pass finds the rows' sum of weights (1, but for the rounding of log_sum) and delta.
    for (int pass = kOwnQueries ? 0 : 1; pass < 2; ++pass) {
      for (int first = begin; first < end; first += kCols) {
        __syncthreads();  // the tiles before are used up
        load_others(first);

        float s[kCols / 8][4] = {}, c[kCols / 8][4] = {};
        cp_async_wait<1>();
        __syncthreads();  // the first is there
        Math::template multiply_transposed<kHeadSize>(s, warp_x, Shape::kStride, shared.other_x,
                                                      Shape::kStride);
        cp_async_wait<0>();
        __syncthreads();  // the second is there
        Math::template multiply_transposed<kHeadSize>(c, warp_y, Shape::kStride, shared.other_y,
                                                      Shape::kStride);
#pragma unroll
        for (int n = 0; n < kCols / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int r = e / 2, column = fragment_column(n, e);
            const int own_place = rows.first_row + warp_row + fragment_row(e);
            const int other_place = first + column;
            const Token& other = shared.others[column];
            const Token& query = kOwnQueries ? own[r] : other;
            const Token& key = kOwnQueries ? other : own[r];
            const int query_place = kOwnQueries ? own_place : other_place;
            const int key_place = kOwnQueries ? other_place : own_place;

            const Score score =
                decayed_score<Math>(p, rate, inverse_window, query, key, s[n][e] * scale);
            float a = attends(p, query_place, key_place, rows.length)
                          ? Math::exp(score.value - query.log_sum)
                          : 0.0f;
            const float kept = dropout.factor(query, key_place);
            c[n][e] *= kept;
            if (kOwnQueries && pass == 0) {
              sum[r] += a;
              delta[r] += a * c[n][e];
            } else {
              differentiate_pair<Math, kOwnQueries, kConfined>(score, a, kept, query, s[n][e],
                                                               c[n][e], grad_rate[r]);
            }
          }
        if (kOwnQueries && pass == 0) continue;

        if (!kOwnQueries) {
          store_scores<Math>(strip, Shape::kScoreStride, c);
          Math::template multiply<kCols>(grad_y, strip, Shape::kScoreStride,
                                         shared.other_y + first_column, Shape::kStride);
        }
        store_scores<Math>(strip, Shape::kScoreStride, s);
        Math::template multiply<kCols>(grad_x, strip, Shape::kScoreStride,
                                       shared.other_x + first_column, Shape::kStride);
      }
      if (kOwnQueries && pass == 0) finish_first_pass(sum, delta, own);
    }

    if (kOwnQueries) {
      for (int r = 0; r < 2; ++r) {
        grad_rate[r] = row_sum(grad_rate[r]);
        const int row = warp_row + fragment_row(2 * r);
        if (row >= num_rows || lane() % 4 != 0 || first_column != 0) continue;
        const int64_t at = (first_token + row) * p.num_heads + head;
        workspace.inverse_sum[at] = own[r].inverse_sum;
        workspace.delta[at] = own[r].delta;
        workspace.grad_rate[at] = grad_rate[r];
      }
    } else {
      store_rows<Math>(p.grad_value, first_token + warp_row, head, num_rows - warp_row,
                       first_column, value_size, grad_y, 1.0f, false);
    }
  }
  const bool add = !kOwnQueries && p.key_is_query;
  store_rows<Math>(kOwnQueries || add ? p.grad_query : p.grad_key, first_token + warp_row,
                   block_head, num_rows - warp_row, first_column, query_size, grad_x, scale, add);
}

// grad_decay_rate [B, H] <- the rows' shares, summed in double in one order.
constexpr unsigned kReduceThreads = 128;

static __global__ void __launch_bounds__(kReduceThreads)
    hawkes_attention_reduce_kernel(const __grid_constant__ HawkesBackwardArguments arguments) {
  const HawkesBackwardParams& p = arguments.params;
  auto* sums = static_cast<double*>(dynamic_shared_memory());
  const int64_t sequence = blockIdx.x, head = blockIdx.y;
  double sum = 0.0;
  for (int64_t i = p.cu_seqlens[sequence] + threadIdx.x; i < p.cu_seqlens[sequence + 1];
       i += kReduceThreads)
    sum += arguments.workspace.grad_rate[i * p.num_heads + head];
  sums[threadIdx.x] = sum;
  for (unsigned half = kReduceThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) p.grad_decay_rate[sequence * p.num_heads + head] = sums[0];
}

}  // namespace emorec
