// Forward kernel: a block owns kRows queries and streams their keys and values, with the softmax
// kept up to date (its maximum and sum) from tile to tile.
#pragma once

#include "tiles.cuh"

namespace emorec {

template <class Math, class Shape>
struct ForwardMemory {
  using Element = typename Math::Element;
  alignas(16) Element query[Shape::kRows * Shape::kStride];
  alignas(16) Element key[Shape::kCols * Shape::kStride];
  alignas(16) Element value[Shape::kCols * Shape::kChunkStride];
  alignas(16) Element scores[Shape::kRows * Shape::kScoreStride];
  Token keys[Shape::kCols];
};

// A thread's part of the softmax of its two rows.
template <class Math>
struct RunningSoftmax {
  float maximum[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};

  // Raises the maximum to that of a tile, scales the sum and the output to it, and writes what is
  // subtracted from the tile's scores.
  template <int kN>
  __device__ __forceinline__ void rescale(float (&new_maximum)[2], float (&output)[kN][4],
                                          float (&shift)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      new_maximum[r] = row_max(new_maximum[r]);
      shift[r] = new_maximum[r] == -INFINITY ? 0.0f : new_maximum[r];  // no key so far
      const float correction = Math::exp(maximum[r] - shift[r]);
      maximum[r] = new_maximum[r];
      sum[r] *= correction;
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        output[n][2 * r] *= correction;
        output[n][2 * r + 1] *= correction;
      }
    }
  }

  // Turns a tile's scores into weights, adds them to the sum and applies their dropout.
  template <int kN>
  __device__ __forceinline__ void weigh(float (&s)[kN][4], const float (&shift)[2],
                                        const Dropout& dropout, const Token (&queries)[2],
                                        int first) {
#pragma unroll
    for (int n = 0; n < kN; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        s[n][e] = Math::exp(s[n][e] - shift[e / 2]);
        sum[e / 2] += s[n][e];
        s[n][e] *= dropout.factor(queries[e / 2], first + fragment_column(n, e));
      }
  }

  // total += output / sum, when all tiles have been added.
  template <int kN>
  __device__ __forceinline__ void normalize(const float (&output)[kN][4], float (&total)[kN][4],
                                            int r) {
    sum[r] = row_sum(sum[r]);
    const float inverse = sum[r] > 0.0f ? 1.0f / sum[r] : 0.0f;
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      total[n][2 * r] += output[n][2 * r] * inverse;
      total[n][2 * r + 1] += output[n][2 * r + 1] * inverse;
    }
  }

  __device__ __forceinline__ float log_sum(int r) const {
    return sum[r] > 0.0f ? maximum[r] + logf(sum[r]) : 0.0f;
  }
};

template <class Math, int kHeadSize>
__global__ void __launch_bounds__(TileShape<Math, kHeadSize, false>::kThreads,
                                  TileShape<Math, kHeadSize, false>::kBlocks)
    hawkes_attention_fwd_kernel(const __grid_constant__ HawkesForwardParams p) {
  using Shape = TileShape<Math, kHeadSize, false>;
  constexpr int kRows = Shape::kRows, kCols = Shape::kCols, kChunk = Shape::kChunk;
  static_assert(sizeof(ForwardMemory<Math, Shape>) <= kSharedBytes, "tiles too large");
  auto& shared = *static_cast<ForwardMemory<Math, Shape>*>(dynamic_shared_memory());

  const Rows rows = find_rows<kRows>(p.cu_seqlens, p.num_sequences, blockIdx.x);
  if (rows.first_row >= rows.length) return;
  const int64_t first_token = rows.sequence_start + rows.first_row;
  const int num_rows = min(kRows, rows.length - rows.first_row);
  const int end = p.causal ? rows.first_row + num_rows : rows.length;
  const int warp_row = threadIdx.x / 32 * 16;
  auto* strip = shared.scores + warp_row * Shape::kScoreStride;
  const int first_column = blockIdx.y % (kHeadSize / kChunk) * kChunk;
  const int block_head = blockIdx.y / (kHeadSize / kChunk);
  const float scale = static_cast<float>(p.scale);
  const Dropout dropout(p);

  float total[kChunk / 8][4] = {};
  const int last_head = p.sum_heads ? static_cast<int>(p.num_heads) - 1 : block_head;
  for (int head = block_head; head <= last_head; ++head) {
    const float rate = static_cast<float>(p.decay_rate[head]);
    const float inverse_window = static_cast<float>(p.inverse_window[head]);
    Token queries[2];
    for (int r = 0; r < 2; ++r)
      queries[r] = load_token(p, rows, rows.first_row + warp_row + fragment_row(2 * r), head);

    auto load_keys = [&](int first) {
      load_tile<Shape, Math, kCols, kHeadSize>(shared.key, p.key, rows.sequence_start + first, head,
                                               rows.length - first, 0, p.query_size);
      if (threadIdx.x < kCols)
        shared.keys[threadIdx.x] = load_token(p, rows, first + threadIdx.x, head);
      cp_async_commit();
    };
    auto load_values = [&](int first) {
      load_tile<Shape, Math, kCols, kChunk>(shared.value, p.value, rows.sequence_start + first,
                                            head, rows.length - first, first_column, p.value_size);
      cp_async_commit();
    };

    __syncthreads();  // the tiles of the head before are used up
    load_tile<Shape, Math, kRows, kHeadSize>(shared.query, p.query, first_token, head, num_rows, 0,
                                             p.query_size);
    load_keys(0);

    float output[kChunk / 8][4] = {};
    RunningSoftmax<Math> softmax;
    for (int first = 0; first < end; first += kCols) {
      cp_async_wait<0>();
      __syncthreads();  // the keys are there, the values before used up
      load_values(first);

      float s[kCols / 8][4] = {};
      Math::template multiply_transposed<kHeadSize>(s, shared.query + warp_row * Shape::kStride,
                                                    Shape::kStride, shared.key, Shape::kStride);
      float new_maximum[2] = {softmax.maximum[0], softmax.maximum[1]};
#pragma unroll
      for (int n = 0; n < kCols / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int row = rows.first_row + warp_row + fragment_row(e);
          const int column = fragment_column(n, e);
          s[n][e] = attends(p, row, first + column, rows.length)
                        ? decayed_score<Math>(p, rate, inverse_window, queries[e / 2],
                                              shared.keys[column], s[n][e] * scale).value
                        : -INFINITY;
          new_maximum[e / 2] = fmaxf(new_maximum[e / 2], s[n][e]);
        }
      float shift[2];
      softmax.rescale(new_maximum, output, shift);
      softmax.weigh(s, shift, dropout, queries, first);
      store_scores<Math>(strip, Shape::kScoreStride, s);

      cp_async_wait<0>();
      __syncthreads();  // the values are there, the keys used up
      if (first + kCols < end) load_keys(first + kCols);
      Math::template multiply<kCols>(output, strip, Shape::kScoreStride, shared.value,
                                     Shape::kChunkStride);
    }

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      softmax.normalize(output, total, r);
      const int row = warp_row + fragment_row(2 * r);
      if (row < num_rows && lane() % 4 == 0 && first_column == 0)
        static_cast<float*>(p.log_sum)[(first_token + row) * p.num_heads + head] =
            softmax.log_sum(r);
    }
  }
  store_rows<Math>(p.output, first_token + warp_row, block_head, num_rows - warp_row, first_column,
                   static_cast<int>(p.value_size), total, 1.0f, false);
}

}  // namespace emorec
