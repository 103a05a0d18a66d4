// Small matrix products in registers: C (+)= diag(row_scale) A B.
//
// Tiles are kTileRows x (kPanel numbers). B is read in panels of kPanel columns, see `Panels`; a
// last panel may be narrower, in whole vectors.
#pragma once

#include "lanes.inl"

constexpr int kTileRows = EMOREC_ROWS_PER_TILE;
constexpr int kPanelVectors = EMOREC_VECTORS_PER_PANEL;
template <typename C>
constexpr int kPanel = kPanelVectors * kLanes<C>;

// A: element (r, k) is at data[r * row_stride + k * column_stride]. One of the strides is 1.
template <typename C>
struct Left {
  const C* data;
  int64_t row_stride;
  int64_t column_stride;
};

// B: element (k, c) is at data[c / kPanel * panel_stride + k * row_stride + c % kPanel]. Plain rows
// have panel_stride kPanel; packed panels are row_stride kPanel wide and lie one after the other.
template <typename C>
struct Panels {
  const C* data;
  int64_t row_stride;
  int64_t panel_stride;
};

template <typename C>
EMOREC_LANES_INLINE Panels<C> plain_rows(const C* data, int64_t row_stride) {
  return {data, row_stride, kPanel<C>};
}

template <typename C, int kRows, int kVectors, bool kTransposed, bool kAccumulate>
static __attribute__((noinline)) void multiply_tile(int64_t depth, const C* __restrict a,
                                                    int64_t a_stride, const C* __restrict b,
                                                    int64_t b_stride, C* __restrict c,
                                                    int64_t c_stride, const C* row_scale) {
  Real<C> sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v++) sum[r][v] = Real<C>{};
  for (int64_t k = 0; k < depth; k++) {
    Real<C> row[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v++) row[v] = load(b + k * b_stride + v * kLanes<C>);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++) {
      const Real<C> left = broadcast(kTransposed ? a[k * a_stride + r] : a[r * a_stride + k]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; v++) sum[r][v] += left * row[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v++) {
      C* to = c + r * c_stride + v * kLanes<C>;
      Real<C> value = row_scale ? sum[r][v] * row_scale[r] : sum[r][v];
      if (kAccumulate) value += load(to);
      store(to, value);
    }
}

template <typename C, int kVectors, bool kTransposed, bool kAccumulate>
static void multiply_panel(int64_t rows, int64_t depth, const C* a, int64_t a_stride, const C* b,
                           int64_t b_stride, C* c, int64_t c_stride, const C* row_scale) {
  const int64_t step = kTransposed ? 1 : a_stride;
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows)
    multiply_tile<C, kTileRows, kVectors, kTransposed, kAccumulate>(
        depth, a + r * step, a_stride, b, b_stride, c + r * c_stride, c_stride,
        row_scale ? row_scale + r : row_scale);
  a += r * step, c += r * c_stride, row_scale = row_scale ? row_scale + r : row_scale;
#define EMOREC_LAST_ROWS(n)                                         \
  case n:                                                           \
    return multiply_tile<C, n, kVectors, kTransposed, kAccumulate>( \
        depth, a, a_stride, b, b_stride, c, c_stride, row_scale);
  switch (rows - r) {
    EMOREC_LAST_ROWS(1)
    EMOREC_LAST_ROWS(2)
    EMOREC_LAST_ROWS(3)
    EMOREC_LAST_ROWS(4)
    EMOREC_LAST_ROWS(5)
  }
#undef EMOREC_LAST_ROWS
}

// rows x columns of C; columns is a multiple of kLanes.
template <typename C, bool kTransposed, bool kAccumulate>
static void multiply(int64_t rows, int64_t columns, int64_t depth, Left<C> a, Panels<C> b, C* c,
                     int64_t c_stride, const C* row_scale = nullptr) {
  const int64_t a_stride = kTransposed ? a.column_stride : a.row_stride;
  for (int64_t j = 0; j < columns; j += kPanel<C>, b.data += b.panel_stride, c += kPanel<C>) {
#define EMOREC_PANEL(n)                                                                   \
  case n:                                                                                 \
    multiply_panel<C, (n < kPanelVectors ? n : kPanelVectors), kTransposed, kAccumulate>( \
        rows, depth, a.data, a_stride, b.data, b.row_stride, c, c_stride, row_scale);     \
    break;
    switch (minimum((columns - j) / kLanes<C>, kPanelVectors)) {
      EMOREC_PANEL(1)
      EMOREC_PANEL(2)
      EMOREC_PANEL(3)
      EMOREC_PANEL(4)
    }
#undef EMOREC_PANEL
  }
}

// Packs the transpose of rows [n, width], times `scale`, into panels [n / kPanel, width, kPanel],
// zeros past n.
template <typename C>
static void pack_transposed(const C* rows, int64_t row_stride, int64_t n, int64_t width, C scale,
                            C* panels) {
  constexpr int kWidth = kLanes<C>;
  for (int64_t first = 0; first < n; first += kPanel<C>, panels += width * kPanel<C>)
    for (int64_t part = 0; part < kPanel<C>; part += kWidth)
      for (int64_t d = 0; d < width; d += kWidth) {
        Real<C> square[kWidth];
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; i++) {
          const int64_t row = first + part + i;
          __builtin_prefetch(rows + (row + kWidth) * row_stride + d);
          square[i] = row < n ? load(rows + row * row_stride + d) : Real<C>{};
        }
        transpose<C>(square);
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; i++)
          store(panels + (d + i) * kPanel<C> + part, square[i] * scale);
      }
}

// Copies what is right of the square panels on the diagonal to its mirror image; `n` rows, the rows
// and columns up to a multiple of kLanes are there.
template <typename C>
static void mirror_panels(C* m, int64_t n, int64_t stride) {
  constexpr int kWidth = kLanes<C>;
  for (int64_t i = 0; i < n; i += kWidth)
    for (int64_t j = round_up(i + 1, kPanel<C>); j < n; j += kWidth) {
      Real<C> square[kWidth];
#pragma GCC unroll 16
      for (int k = 0; k < kWidth; k++) square[k] = load(m + (i + k) * stride + j);
      transpose<C>(square);
#pragma GCC unroll 16
      for (int k = 0; k < kWidth; k++) store(m + (j + k) * stride + i, square[k]);
    }
}

// m <- m + m^T for a square matrix of n rows; n and stride are multiples of kLanes.
template <typename C>
static void add_transpose(C* m, int64_t n, int64_t stride) {
  constexpr int kWidth = kLanes<C>;
  for (int64_t i = 0; i < n; i += kWidth)
    for (int64_t j = i; j < n; j += kWidth) {
      Real<C> lower[kWidth];
#pragma GCC unroll 16
      for (int k = 0; k < kWidth; k++) lower[k] = load(m + (j + k) * stride + i);
      transpose<C>(lower);
#pragma GCC unroll 16
      for (int k = 0; k < kWidth; k++) {
        lower[k] += load(m + (i + k) * stride + j);
        store(m + (i + k) * stride + j, lower[k]);
      }
      if (i == j) continue;
      transpose<C>(lower);
#pragma GCC unroll 16
      for (int k = 0; k < kWidth; k++) store(m + (j + k) * stride + i, lower[k]);
    }
}
