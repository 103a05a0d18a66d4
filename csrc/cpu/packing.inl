// Between tensors and the kernels' own arrays: scratch memory, and rows of numbers in and out.
#pragma once

#include "gemm.inl"

// Hands out pieces of scratch memory; without memory (base is null) only adds up their sizes.
struct Arena {
  char* base;
  int64_t used = 0;

  template <typename T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(base + used);
    used += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return piece;
  }
};

template <typename C>
static void clear(C* to, int64_t count) {
  for (int64_t i = 0; i < count; i++) to[i] = 0;
}

EMOREC_LANES_INLINE float from_bfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  __builtin_memcpy(&value, &wide, sizeof(value));
  return value;
}

// Rounds to nearest, ties to even; NaN stays NaN.
EMOREC_LANES_INLINE uint16_t to_bfloat16(float value) {
  uint32_t wide;
  __builtin_memcpy(&wide, &value, sizeof(wide));
  if (value != value) return static_cast<uint16_t>(wide >> 16 | 0x40);
  return static_cast<uint16_t>((wide + 0x7FFF + (wide >> 16 & 1)) >> 16);
}

// Rows of a head, of whole vectors: those of a tensor, or a copy of them.
template <typename C>
struct Rows {
  C* data;
  int64_t stride;
  C* operator[](int64_t i) const { return data + i * stride; }
};

// Distance between the rows of arrays of scores: an odd number of cache lines, so that a column's
// elements spread over all sets of the first cache.
template <typename C>
static int64_t score_stride(int64_t padded) {
  const int64_t line = 64 / sizeof(C);
  return (round_up(padded, line) / line | 1) * line;
}

// Whether a tensor's rows can be used as they are: of type C and, without padding, of whole
// vectors.
template <typename C>
static bool usable_in_place(Dtype dtype, int64_t size) {
  return dtype != Dtype::bfloat16 && size % kLanes<C> == 0;
}

// The rows of one head from token `first` on: in place or copied into `room`, zeros past `size`.
template <typename C>
static Rows<const C> read_rows(Dtype dtype, const ConstVectors& from, int64_t head, int64_t first,
                               int64_t n, int64_t size, C* room) {
  const int64_t start = first * from.token_stride + head * from.head_stride;
  const C* numbers = static_cast<const C*>(from.data) + start;
  if (usable_in_place<C>(dtype, size)) return {numbers, from.token_stride};
  const int64_t stride = round_up(size, kLanes<C>);
  const uint16_t* halves = static_cast<const uint16_t*>(from.data) + start;
  for (int64_t i = 0; i < n; i++) {
    C* to = room + i * stride;
    const int64_t at = i * from.token_stride;
    for (int64_t d = 0; d < size; d++)
      to[d] = dtype == Dtype::bfloat16 ? from_bfloat16(halves[at + d]) : numbers[at + d];
    for (int64_t d = size; d < stride; d++) to[d] = 0;
  }
  return {room, stride};
}

// Asks for rows that are needed soon.
template <typename C>
static void prefetch_rows(Dtype dtype, const ConstVectors& from, int64_t head, int64_t first,
                          int64_t n, int64_t size) {
  const int64_t width = dtype == Dtype::bfloat16 ? sizeof(uint16_t) : sizeof(C);
  const char* row = static_cast<const char*>(from.data) +
                    width * (first * from.token_stride + head * from.head_stride);
  for (int64_t i = 0; i < n; i++, row += width * from.token_stride)
    for (int64_t at = 0; at < width * size; at += 64) __builtin_prefetch(row + at, 0, 2);
}

// Where the rows of one head from token `first` on are computed: in the tensor or, if write_rows
// has to copy them there, in `room`.
template <typename C>
static Rows<C> rows_to_write(Dtype dtype, const Vectors& to, int64_t head, int64_t first,
                             int64_t size, C* room) {
  if (!usable_in_place<C>(dtype, size)) return {room, round_up(size, kLanes<C>)};
  return {static_cast<C*>(to.data) + first * to.token_stride + head * to.head_stride,
          to.token_stride};
}

// Writes rows times `scale`, unless they are in the tensor already.
template <typename C>
static void write_rows(Dtype dtype, Rows<C> from, C scale, const Vectors& to, int64_t head,
                       int64_t first, int64_t n, int64_t size) {
  const int64_t start = first * to.token_stride + head * to.head_stride;
  C* numbers = static_cast<C*>(to.data) + start;
  if (from.data == numbers) return;
  uint16_t* halves = static_cast<uint16_t*>(to.data) + start;
  for (int64_t i = 0; i < n; i++) {
    const int64_t at = i * to.token_stride;
    for (int64_t d = 0; d < size; d++)
      if (dtype == Dtype::bfloat16)
        halves[at + d] = to_bfloat16(static_cast<float>(scale * from[i][d]));
      else
        numbers[at + d] = scale * from[i][d];
  }
}

// Copies rows wider than a panel into panels [width / kPanel, n, kPanel]; narrower rows are used in
// place. See `Panels`.
template <typename C>
static Panels<C> pack_rows(Rows<const C> rows, int64_t n, int64_t width, C* panels) {
  if (width <= kPanel<C>) return plain_rows(rows.data, rows.stride);
  C* to = panels;
  for (int64_t column = 0; column < width; column += kPanel<C>)
    for (int64_t i = 0; i < n; i++, to += kPanel<C>)
      for (int64_t c = 0; c < minimum(kPanel<C>, width - column); c += kLanes<C>)
        store(to + c, load(rows[i] + column + c));
  return {panels, kPanel<C>, n * kPanel<C>};
}
