// What the forward and the backward kernel share: which rows a block owns, how tiles get to shared
// memory and back, and the score of a pair of tokens.
#pragma once

#include "../hawkes_attention.h"
#include "math.cuh"

namespace emorec {

// A block owns kRows rows, 16 per warp, and streams kCols others at a time. Sizes keep the tiles
// within the shared memory of the smaller devices and the sums within a thread's registers; a wider
// head is written in chunks of kChunk columns, one per block.
constexpr size_t kSharedBytes = 99 << 10;

template <class Math, int kHeadSize_, bool kBackward>
struct TileShape {
  static constexpr int kHeadSize = kHeadSize_;
  static constexpr int kChunk = kHeadSize < 128 ? kHeadSize : 128;
  static constexpr bool kHalf = sizeof(typename Math::Element) == 2;
  static constexpr int kBytes = kHeadSize * sizeof(typename Math::Element);  // of a vector
  static constexpr int kRows = kBytes > (kBackward ? 256 : 512) ? 32 : 64;
  static constexpr int kForwardCols = kBytes <= 256 && kHalf ? 64 : kBytes <= 512 ? 32 : 16;
  static constexpr int kBackwardCols = kBytes <= 256 ? 32 : kBytes > 512 ? 8 : kHalf ? 16 : 32;
  static constexpr int kCols = kBackward ? kBackwardCols : kForwardCols;
  static constexpr int kThreads = 2 * kRows;
  static constexpr int kBlocks = !kBackward && kBytes <= 128 ? 3 : 1;  // per multiprocessor
  static constexpr int kStride = kHeadSize + Math::kPad;    // of tiles of vectors
  static constexpr int kChunkStride = kChunk + Math::kPad;  // of tiles of a chunk
  static constexpr int kScoreStride = kCols + Math::kPad;   // of tiles of scores
};

// The rows of a block: tokens first_row .. of a sequence of `length` tokens.
struct Rows {
  int64_t sequence_start;
  int64_t sequence;
  int length;
  int first_row;
};

// Sequence b has the slots cu_seqlens[b] / kRows + b and on, enough for its rows, so that a block
// finds its sequence by bisection and the host never needs the lengths.
template <int kRows>
__device__ Rows find_rows(const int64_t* cu_seqlens, int64_t num_sequences, int64_t slot) {
  int64_t low = 0, high = num_sequences;  // the sequence is in [low, high)
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (cu_seqlens[middle] / kRows + middle <= slot ? low : high) = middle;
  }
  const int64_t start = cu_seqlens[low];
  const int64_t row = (slot - start / kRows - low) * kRows;
  const int64_t length = cu_seqlens[low + 1] - start;
  return {start, low, static_cast<int>(length), static_cast<int>(row < length ? row : length)};
}

inline int64_t num_slots(int64_t num_tokens, int64_t num_sequences, int rows) {
  return num_tokens / rows + num_sequences;
}

// Shared memory <- columns first_column and on of tokens `token` and on; zeros beyond `count`
// tokens and `size` columns. Arrives with the thread's asynchronous copies and a barrier.
template <class Shape, class Math, int kTileRows, int kTileCols>
__device__ void load_tile(typename Math::Element* tile, const ConstVectors& from, int64_t token,
                          int64_t head, int count, int first_column, int size) {
  using Element = typename Math::Element;
  constexpr int kPiece = 16 / sizeof(Element), kPieces = kTileCols / kPiece;
  const Element* data = static_cast<const Element*>(from.data) + head * from.head_stride;
  // The copies are of 16 bytes at places that 16 divides, or else element by element.
  const uintptr_t places = reinterpret_cast<uintptr_t>(from.data) |
                           from.token_stride * sizeof(Element) | from.head_stride * sizeof(Element);
  const bool aligned = places % 16 == 0;
  for (int piece = threadIdx.x; piece < kTileRows * kPieces; piece += Shape::kThreads) {
    const int row = piece / kPieces, column = piece % kPieces * kPiece;
    const int left = row < count ? size - first_column - column : 0;
    const Element* source =
        left > 0 ? data + (token + row) * from.token_stride + first_column + column : data;
    Element* target = tile + row * (kTileCols + Math::kPad) + column;
    if (aligned) {
      cp_async_16(target, source, max(0, min(left, kPiece)) * static_cast<int>(sizeof(Element)));
    } else {
#pragma unroll
      for (int k = 0; k < kPiece; ++k) target[k] = k < left ? source[k] : Math::from_float(0.0f);
    }
  }
}

// Vectors <- a warp's 16 rows of sums times `factor`; rows >= count and columns >= size stay.
template <class Math, int N>
__device__ void store_rows(const Vectors& to, int64_t token, int64_t head, int count,
                           int first_column, int size, const float (&c)[N][4], float factor,
                           bool add) {
  using Element = typename Math::Element;
  Element* data = static_cast<Element*>(to.data) + head * to.head_stride;
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    if (fragment_row(e) >= count) continue;
    Element* row = data + (token + fragment_row(e)) * to.token_stride;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const int column = first_column + fragment_column(n, e);
      if (column < size)
        row[column] =
            Math::from_float(c[n][e] * factor + (add ? Math::to_float(row[column]) : 0.0f));
    }
  }
}

// A warp's own 16 rows of scores, as the left operand of the next product.
template <class Math, int N>
__device__ void store_scores(typename Math::Element* strip, int stride, const float (&c)[N][4]) {
  __syncwarp();  // the product before has read the strip
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; e += 2)
      Math::store_pair(strip + fragment_row(e) * stride + fragment_column(n, e), c[n][e],
                       c[n][e + 1]);
  __syncwarp();
}

// Sum over the four lanes that hold one row.
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// What a token brings to its scores besides its vectors. The last four belong to queries.
struct Token {
  int64_t time;  // or the bits of a double
  int32_t position;
  float log_sum;
  float inverse_sum;
  float delta;
  uint64_t dropout_key;
};

__device__ __forceinline__ Token load_token(const HawkesForwardParams& p, const Rows& rows,
                                            int place, int64_t head) {
  Token token = {};
  if (place >= rows.length) return token;
  const int64_t i = rows.sequence_start + place;
  token.time = p.time_int64 ? p.time_int64[i] : reinterpret_cast<const int64_t*>(p.time_float64)[i];
  token.position = p.position[i];
  if (p.dropout > 0) token.dropout_key = dropout_row_key(*p.seed, i, head);
  return token;
}

// Time from `key` to `query`, at least 0; subtracted before it is rounded.
__device__ __forceinline__ float elapsed_time(const HawkesForwardParams& p, const Token& query,
                                              const Token& key) {
  if (p.time_int64) return query.time > key.time ? static_cast<float>(query.time - key.time) : 0.0f;
  return static_cast<float>(
      fmax(__longlong_as_double(query.time) - __longlong_as_double(key.time), 0.0));
}

struct Score {
  float value;    // s
  float weight;   // ds / dg
  float elapsed;  // -(ds / drate), over s if decay is multiplicative
};

template <class Math>
__device__ __forceinline__ Score decayed_score(const HawkesForwardParams& p, float rate,
                                               float inverse_window, const Token& query,
                                               const Token& key, float score) {
  const float elapsed = elapsed_time(p, query, key);
  const float distance =
      fabsf(static_cast<float>(position_difference(query.position, key.position)));
  // Products are rounded, not fused with what the caller subtracts: the backward must find the
  // forward's scores again, to the last bit where one key has all the weight.
  const float exponent = fmaf(rate, elapsed, __fmul_rn(distance, inverse_window));
  if (p.decay == Decay::additive) return {__fsub_rn(score, exponent), 1.0f, elapsed};
  const float weight = Math::exp(-exponent);
  const float value = __fmul_rn(score, weight);
  return {value, weight, elapsed * value};
}

// Whether the query at a place of its sequence attends to the key at another.
__device__ __forceinline__ bool attends(const HawkesForwardParams& p, int query, int key,
                                        int length) {
  return query < length && key < length && !(p.causal && key > query) &&
         !(p.mask_self && key == query);
}

// 0, or 1 / (1 - dropout): the factor on the weight of a key.
struct Dropout {
  uint32_t threshold;
  float kept;

  __device__ explicit Dropout(const HawkesForwardParams& p)
      : threshold(p.dropout > 0 ? dropout_threshold(p.dropout) : 0),
        kept(static_cast<float>(1.0 / (1.0 - p.dropout))) {}
  __device__ float factor(const Token& query, int key) const {
    if (threshold == 0) return kept;
    return dropout_bits(query.dropout_key, key) >= threshold ? kept : 0.0f;
  }
};

}  // namespace emorec
