// Cross-entropy over the catalogue. The names are those of the formula in softmax_loss.h.
#pragma once

#include "packing.inl"

// States and items of one task, and what a product takes of them at a time: a tile's operands then
// stay in the first cache.
constexpr int64_t kTaskStates = 4 * kTileRows, kTaskItems = 8 * kTileRows;
constexpr int64_t kItemsAtOnce = 256, kStatesAtOnce = 64;

// What all threads share. Errors of a chunk are e_ti over a factor of the state, which the products
// bring in: f_t = n_t / (N sum_j exp(s_tj)).
template <typename C>
struct SoftmaxArrays {
  int64_t width;   // D, in whole vectors
  int64_t padded;  // I, in whole panels
  int64_t stride;  // between rows of errors
  C* columns;      // [padded / kPanel, D, kPanel], V^T / ln 2
  C* rows;         // [D / kPanel, I, kPanel], V
  C* states;       // [D / kPanel, chunk, kPanel], f_t x_t
  C* errors;       // [chunk, stride]
  int64_t bytes;

  SoftmaxArrays(const SoftmaxLossParams& p, char* shared)
      : width(round_up(p.size, kLanes<C>)),
        padded(round_up(p.num_items, kPanel<C>)),
        stride(score_stride<C>(padded)) {
    Arena arena{shared};
    const int64_t padded_size = round_up(p.size, kPanel<C>);
    columns = arena.take<C>(padded * p.size);
    rows = arena.take<C>(padded_size * p.num_items);
    states = arena.take<C>(padded_size * p.chunk);
    errors = arena.take<C>(p.chunk * stride);
    bytes = arena.used;
  }
};

// One row, times `scale`, into panels [size / kPanel, n, kPanel] of n rows, zeros past its end.
template <typename C>
static void pack_row(const C* row, int64_t size, C scale, int64_t n, C* panels) {
  for (int64_t first = 0; first < size; first += kPanel<C>, panels += n * kPanel<C>)
    for (int64_t c = 0; c < kPanel<C>; c++)
      panels[c] = first + c < size ? scale * row[first + c] : C(0);
}

template <typename C>
static void pack_items(const SoftmaxLossParams& p, char* shared) {
  const SoftmaxArrays<C> to(p, shared);
  const C* items = static_cast<const C*>(p.items);
  for (int64_t i = 0; i < to.padded; i++) {
    C* column = to.columns + i / kPanel<C> * p.size * kPanel<C> + i % kPanel<C>;
    for (int64_t d = 0; d < p.size; d++)
      column[d * kPanel<C>] =
          i < p.num_items ? static_cast<C>(kLog2E) * items[i * p.size + d] : C(0);
  }
  for (int64_t i = 0; i < p.num_items; i++)
    pack_row(items + i * p.size, p.size, C(1), p.num_items, to.rows + i * kPanel<C>);
}

// Turns a state's scores, in powers of 2, into its errors over f_t; returns f_t.
template <typename C>
static C scores_to_errors(const SoftmaxLossParams& p, int64_t t, int64_t padded, C* scores) {
  const int64_t* target = p.target + t * p.num_targets;
  const bool* wanted = p.wanted + t * p.num_targets;
  double count = 0, gain = 0;
  for (int64_t k = 0; k < p.num_targets; k++)
    if (wanted[k]) count += 1, gain += scores[target[k]];
  for (int64_t i = p.num_items; i < padded; i++) scores[i] = -static_cast<C>(__builtin_inf());
  Real<C> top = load(scores), sum = Real<C>{};
  for (int64_t i = 0; i < padded; i += kLanes<C>) top = larger(top, load(scores + i));
  const C largest = largest_lane<C>(top);
  for (int64_t i = 0; i < padded; i += kLanes<C>) {
    const Real<C> e = power_of_2(load(scores + i) - largest);
    store(scores + i, e);
    sum += e;
  }
  const double total = sum_lanes<C>(sum);
  for (int64_t k = 0; k < p.num_targets; k++)
    if (wanted[k]) scores[target[k]] -= static_cast<C>(total / count);
  p.loss[t] = count * (kLn2 * largest + __builtin_log(total)) - kLn2 * gain;
  return static_cast<C>(count / (total * p.num_wanted));
}

template <typename C>
static void softmax_states_of(const SoftmaxLossParams& p, Range chunk, Range states, char* shared,
                              char* scratch) {
  const SoftmaxArrays<C> of(p, shared);
  const int64_t n = states.last - states.first, place = states.first - chunk.first;
  const C* state = static_cast<const C*>(p.state) + states.first * p.size;
  C* errors = of.errors + place * of.stride;
  C factor[kTaskStates];
  multiply<C, false, false>(n, of.padded, p.size, Left<C>{state, p.size, 1},
                            Panels<C>{of.columns, kPanel<C>, p.size * kPanel<C>}, errors,
                            of.stride);
  for (int64_t t = 0; t < n; t++) {
    factor[t] = scores_to_errors(p, states.first + t, of.padded, errors + t * of.stride);
    pack_row(state + t * p.size, p.size, factor[t], p.chunk, of.states + (place + t) * kPanel<C>);
  }
  C* grad = reinterpret_cast<C*>(scratch);
  clear(grad, n * of.width);
  for (int64_t i = 0; i < p.num_items; i += kItemsAtOnce)
    multiply<C, false, true>(n, of.width, minimum(kItemsAtOnce, p.num_items - i),
                             Left<C>{errors + i, of.stride, 1},
                             Panels<C>{of.rows + i * kPanel<C>, kPanel<C>, p.num_items * kPanel<C>},
                             grad, of.width, factor);
  C* to = static_cast<C*>(p.grad_state) + states.first * p.size;
  for (int64_t t = 0; t < n; t++)
    for (int64_t d = 0; d < p.size; d++) to[t * p.size + d] = grad[t * of.width + d];
}

template <typename C>
static void softmax_items_of(const SoftmaxLossParams& p, Range chunk, Range items, char* shared,
                             char* scratch) {
  const SoftmaxArrays<C> of(p, shared);
  const int64_t n = items.last - items.first, states = chunk.last - chunk.first;
  C* grad = reinterpret_cast<C*>(scratch);
  clear(grad, n * of.width);
  for (int64_t t = 0; t < states; t += kStatesAtOnce)
    multiply<C, true, true>(n, of.width, minimum(kStatesAtOnce, states - t),
                            Left<C>{of.errors + t * of.stride + items.first, 1, of.stride},
                            Panels<C>{of.states + t * kPanel<C>, kPanel<C>, p.chunk * kPanel<C>},
                            grad, of.width);
  C* to = static_cast<C*>(p.grad_items) + items.first * p.size;
  for (int64_t i = 0; i < n; i++)
    for (int64_t d = 0; d < p.size; d++) {
      const C before = chunk.first ? to[i * p.size + d] : C(0);
      to[i * p.size + d] = before + grad[i * of.width + d];
    }
}

template <typename C>
static SoftmaxSizes softmax_sizes_of(const SoftmaxLossParams& p) {
  const SoftmaxArrays<C> of(p, nullptr);
  const int64_t scratch = maximum(kTaskStates, kTaskItems) * of.width * sizeof(C);
  return {of.bytes, scratch, kTaskStates, kTaskItems};
}

// Picks the instance for a call's precision.
static SoftmaxSizes softmax_sizes(const SoftmaxLossParams& p) {
  return (p.dtype == Dtype::float64 ? softmax_sizes_of<double> : softmax_sizes_of<float>)(p);
}

static void softmax_pack(const SoftmaxLossParams& p, char* shared) {
  (p.dtype == Dtype::float64 ? pack_items<double> : pack_items<float>)(p, shared);
}

static void softmax_states(const SoftmaxLossParams& p, Range chunk, Range states, char* shared,
                           char* scratch) {
  (p.dtype == Dtype::float64 ? softmax_states_of<double>
                             : softmax_states_of<float>)(p, chunk, states, shared, scratch);
}

static void softmax_items(const SoftmaxLossParams& p, Range chunk, Range items, char* shared,
                          char* scratch) {
  (p.dtype == Dtype::float64 ? softmax_items_of<double> : softmax_items_of<float>)(p, chunk, items,
                                                                                   shared, scratch);
}
