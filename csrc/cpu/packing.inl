// Between tensors and the kernels' own arrays: scratch memory, and rows of numbers in and out.

// Hands out pieces of scratch memory, or counts them if there is none yet.
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

// Copies rows [first, first + n) of one head into `to` [n, stride], times `scale`, zeros past `size`.
template <typename C>
static void read_rows(Dtype dtype, const ConstVectors& from, int64_t head, int64_t first, int64_t n,
                      int64_t size, C scale, C* to, int64_t stride) {
  for (int64_t i = 0; i < n; i++, to += stride) {
    const int64_t at = (first + i) * from.token_stride + head * from.head_stride;
    if (dtype == Dtype::bfloat16) {
      const uint16_t* row = static_cast<const uint16_t*>(from.data) + at;
      for (int64_t d = 0; d < size; d++) to[d] = scale * from_bfloat16(row[d]);
    } else {
      const C* row = static_cast<const C*>(from.data) + at;
      for (int64_t d = 0; d < size; d++) to[d] = scale * row[d];
    }
    for (int64_t d = size; d < stride; d++) to[d] = 0;
  }
}

// The reverse of read_rows.
template <typename C>
static void write_rows(Dtype dtype, const C* from, int64_t stride, C scale, const Vectors& to,
                       int64_t head, int64_t first, int64_t n, int64_t size) {
  for (int64_t i = 0; i < n; i++, from += stride) {
    const int64_t at = (first + i) * to.token_stride + head * to.head_stride;
    if (dtype == Dtype::bfloat16) {
      uint16_t* row = static_cast<uint16_t*>(to.data) + at;
      for (int64_t d = 0; d < size; d++) row[d] = to_bfloat16(static_cast<float>(scale * from[d]));
    } else {
      C* row = static_cast<C*>(to.data) + at;
      for (int64_t d = 0; d < size; d++) row[d] = scale * from[d];
    }
  }
}

// Copies plain rows [n, stride] into panels [stride / kPanel, n, kPanel]; see `Panels`.
template <typename C>
static Panels<C> pack_rows(const C* rows, int64_t n, int64_t stride, C* panels) {
  if (stride <= kPanel<C>) return plain_rows(rows, stride);
  C* to = panels;
  for (int64_t column = 0; column < stride; column += kPanel<C>)
    for (int64_t i = 0; i < n; i++, to += kPanel<C>)
      for (int64_t c = 0; c < minimum(kPanel<C>, stride - column); c += kLanes<C>)
        store(to + c, load(rows + i * stride + column + c));
  return {panels, kPanel<C>, n * kPanel<C>};
}
