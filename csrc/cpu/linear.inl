// Linear maps after a layer norm and before a residual. The names are those of linear.h.
#pragma once

#include "packing.inl"

constexpr int64_t kTileInputs = 8 * kTileRows;
constexpr int64_t kDepthAtOnce = 128;  // of a product: a panel of the right side fits a first cache

// One thread's tiles of rows.
template <typename C>
struct LinearTiles {
  C* inputs;   // [kTileInputs, D]: u or z
  C* outputs;  // [kTileInputs, N]: d
  C* grads;    // [kTileInputs, D]: W^T d
  int64_t bytes;

  LinearTiles(int64_t size, int64_t outputs_of_row, char* scratch) {
    Arena arena{scratch};
    inputs = arena.take<C>(kTileInputs * size);
    outputs = arena.take<C>(kTileInputs * outputs_of_row);
    grads = arena.take<C>(kTileInputs * size);
    bytes = arena.used;
  }
};

// What a task adds to the gradients of the parameters.
template <typename C>
struct NormLinearSums {
  C* weight;  // [N, D]
  C* bias;    // [N]
  C* gain;    // [D]
  C* shift;   // [D]
  int64_t count;

  NormLinearSums(const NormLinearParams& p, C* sums) {
    weight = sums;
    bias = weight + p.outputs * p.size;
    gain = bias + p.outputs;
    shift = gain + p.size;
    count = shift + p.size - sums;
  }
};

// Factors of dropout of some elements.
template <typename C>
EMOREC_LANES_INLINE Real<C> dropout_factors(const uint8_t* bytes, int64_t threshold) {
  typedef uint8_t Bytes __attribute__((vector_size(kLanes<C>)));
  Bytes drawn;
  __builtin_memcpy(&drawn, bytes, sizeof(drawn));
  const Int<C> kept = __builtin_convertvector(drawn, Int<C>) >= broadcast_int<C>(threshold);
  return kept ? broadcast(C(256) / static_cast<C>(256 - threshold)) : Real<C>{};
}

// C += A B, a part of the depth at a time.
template <typename C>
static void multiply_deep(int64_t rows, int64_t columns, int64_t depth, Left<C> a, Panels<C> b,
                          C* c, int64_t c_stride) {
  for (int64_t k = 0; k < depth; k += kDepthAtOnce)
    multiply<C, false, true>(
        rows, columns, minimum(kDepthAtOnce, depth - k), Left<C>{a.data + k, a.row_stride, 1},
        Panels<C>{b.data + k * b.row_stride, b.row_stride, b.panel_stride}, c, c_stride);
}

template <typename C>
static void fill_rows(int64_t rows, int64_t size, const C* with, C* to) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t d = 0; d < size; d++) to[i * size + d] = with[d];
}

template <typename C>
struct Moments {
  C mean, r;
};

template <typename C>
static Moments<C> moments_of(const NormLinearParams& p, const C* x) {
  Real<C> sum{}, squares{};
  for (int64_t d = 0; d < p.size; d += kLanes<C>) sum += load(x + d);
  const C mean = sum_lanes<C>(sum) / static_cast<C>(p.size);
  for (int64_t d = 0; d < p.size; d += kLanes<C>) {
    const Real<C> apart = load(x + d) - mean;
    squares += apart * apart;
  }
  const double variance = sum_lanes<C>(squares) / static_cast<C>(p.size);
  return {mean, static_cast<C>(1 / __builtin_sqrt(variance + p.epsilon))};
}

// u of some rows.
template <typename C>
static void normalize_rows(const NormLinearParams& p, const C* x, int64_t rows, C* u) {
  const C* gain = static_cast<const C*>(p.gain);
  const C* shift = static_cast<const C*>(p.shift);
  for (int64_t i = 0; i < rows; i++, x += p.size, u += p.size) {
    const Moments<C> of = moments_of(p, x);
    for (int64_t d = 0; d < p.size; d += kLanes<C>)
      store(u + d, (load(x + d) - of.mean) * of.r * load(gain + d) + load(shift + d));
  }
}

template <typename C>
EMOREC_LANES_INLINE Real<C> activated(Activation activation, Real<C> a) {
  if (activation == Activation::relu) return larger(Real<C>{}, a);
  // The exponential of what is not negative is not looked at, but must not overflow.
  const Real<C> below = larger(Real<C>{}, -a);
  return a > C(0) ? a : power_of_2(below * static_cast<C>(-kLog2E)) - C(1);
}

template <typename C>
static void norm_linear_pack_of(const NormLinearParams& p, char* shared) {
  pack_transposed(static_cast<const C*>(p.weight), p.size, p.outputs, p.size, C(1),
                  reinterpret_cast<C*>(shared));
}

template <typename C>
static void norm_linear_forward_of(const NormLinearParams& p, Range rows, char* shared,
                                   char* scratch) {
  const LinearTiles<C> tile(p.size, p.outputs, scratch);
  const Panels<C> weight{reinterpret_cast<const C*>(shared), kPanel<C>, p.size * kPanel<C>};
  for (int64_t first = rows.first; first < rows.last; first += kTileInputs) {
    const int64_t n = minimum(kTileInputs, rows.last - first);
    C* output = static_cast<C*>(p.output) + first * p.outputs;
    normalize_rows(p, static_cast<const C*>(p.x) + first * p.size, n, tile.inputs);
    fill_rows(n, p.outputs, static_cast<const C*>(p.bias), output);
    multiply_deep(n, p.outputs, p.size, Left<C>{tile.inputs, p.size, 1}, weight, output, p.outputs);
    if (p.activation == Activation::none) continue;
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = p.first_activated; j < p.outputs; j += kLanes<C>) {
        const int64_t k = i * p.outputs + j;
        Real<C> h = activated<C>(p.activation, load(output + k));
        if (p.threshold) h *= dropout_factors<C>(p.bytes + first * p.outputs + k, p.threshold);
        store(output + k, h);
      }
  }
}

// d of some rows, whose part of db is added.
template <typename C>
static void grads_of_products(const NormLinearBackwardParams& p, int64_t first, int64_t rows,
                              C* bias, C* d) {
  const C* h = static_cast<const C*>(p.output) + first * p.outputs;
  const C* g = static_cast<const C*>(p.grad_output) + first * p.outputs;
  const C factor = C(256) / static_cast<C>(256 - p.threshold);
  const bool is_relu = p.activation == Activation::relu;
  const int64_t first_activated = p.activation == Activation::none ? p.outputs : p.first_activated;
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < p.outputs; j += kLanes<C>) {
      const int64_t k = i * p.outputs + j;
      Real<C> own = load(g + k);
      if (j >= first_activated) {
        const Real<C> a = load(h + k);
        const Real<C> below = is_relu ? Real<C>{} : own * (a + C(1));
        own = a > C(0) ? factor * own : below;
      }
      store(d + k, own);
      store(bias + j, load(bias + j) + own);
    }
}

// dx of one row, whose parts of dgain and dshift are added.
template <typename C>
static void grad_of_input(const NormLinearBackwardParams& p, int64_t t, const C* grad_u,
                          NormLinearSums<C> sums) {
  const C* x = static_cast<const C*>(p.x) + t * p.size;
  const C* gain = static_cast<const C*>(p.gain);
  const Moments<C> of = moments_of(p, x);
  C* grad_x = static_cast<C*>(p.grad_x) + t * p.size;
  Real<C> sum{}, dot{};
  for (int64_t d = 0; d < p.size; d += kLanes<C>) {
    const Real<C> own = load(grad_u + d), n = (load(x + d) - of.mean) * of.r;
    const Real<C> q = own * load(gain + d);
    sum += q;
    dot += q * n;
    store(sums.gain + d, load(sums.gain + d) + own * n);
    store(sums.shift + d, load(sums.shift + d) + own);
  }
  const C mean_q = sum_lanes<C>(sum) / static_cast<C>(p.size);
  const C mean_qn = sum_lanes<C>(dot) / static_cast<C>(p.size);
  for (int64_t d = 0; d < p.size; d += kLanes<C>) {
    const Real<C> n = (load(x + d) - of.mean) * of.r;
    store(grad_x + d, of.r * (load(grad_u + d) * load(gain + d) - mean_q - n * mean_qn));
  }
}

template <typename C>
static void norm_linear_backward_of(const NormLinearBackwardParams& p, Range rows,
                                    void* sums_of_task, char* scratch) {
  const LinearTiles<C> tile(p.size, p.outputs, scratch);
  const NormLinearSums<C> sums(p, static_cast<C*>(sums_of_task));
  clear(static_cast<C*>(sums_of_task), sums.count);
  for (int64_t first = rows.first; first < rows.last; first += kTileInputs) {
    const int64_t n = minimum(kTileInputs, rows.last - first);
    normalize_rows(p, static_cast<const C*>(p.x) + first * p.size, n, tile.inputs);
    grads_of_products(p, first, n, sums.bias, tile.outputs);
    multiply<C, true, true>(p.outputs, p.size, n, Left<C>{tile.outputs, 1, p.outputs},
                            plain_rows<C>(tile.inputs, p.size), sums.weight, p.size);
    clear(tile.grads, n * p.size);
    multiply_deep(n, p.size, p.outputs, Left<C>{tile.outputs, p.outputs, 1},
                  plain_rows(static_cast<const C*>(p.weight), p.size), tile.grads, p.size);
    for (int64_t i = 0; i < n; i++) grad_of_input(p, first + i, tile.grads + i * p.size, sums);
  }
}

template <typename C>
static void add_linear_pack_of(const AddLinearParams& p, char* shared) {
  pack_transposed(static_cast<const C*>(p.weight), p.inputs, p.size, p.inputs, C(1),
                  reinterpret_cast<C*>(shared));
}

template <typename C>
static void add_linear_forward_of(const AddLinearForwardParams& p, Range rows, char* shared,
                                  char* scratch) {
  const LinearTiles<C> tile(p.size, 0, scratch);
  const Panels<C> weight{reinterpret_cast<const C*>(shared), kPanel<C>, p.inputs * kPanel<C>};
  for (int64_t first = rows.first; first < rows.last; first += kTileInputs) {
    const int64_t n = minimum(kTileInputs, rows.last - first), start = first * p.size;
    const C* h = static_cast<const C*>(p.h) + first * p.inputs;
    const C* x = static_cast<const C*>(p.x) + start;
    C* output = static_cast<C*>(p.output) + start;
    fill_rows(n, p.size, static_cast<const C*>(p.bias), tile.inputs);
    multiply_deep(n, p.size, p.inputs, Left<C>{h, p.inputs, 1}, weight, tile.inputs, p.size);
    for (int64_t k = 0; k < n * p.size; k += kLanes<C>) {
      Real<C> added = load(tile.inputs + k);
      if (p.threshold) added *= dropout_factors<C>(p.bytes + start + k, p.threshold);
      store(output + k, load(x + k) + added);
    }
  }
}

// Sums: dV, then dc.
template <typename C>
static void add_linear_backward_of(const AddLinearBackwardParams& p, Range rows, void* sums_of_task,
                                   char* scratch) {
  const LinearTiles<C> tile(p.size, 0, scratch);
  C* sums = static_cast<C*>(sums_of_task);
  C* bias = sums + p.size * p.inputs;
  clear(sums, p.size * (p.inputs + 1));
  for (int64_t first = rows.first; first < rows.last; first += kTileInputs) {
    const int64_t n = minimum(kTileInputs, rows.last - first), start = first * p.size;
    const C* h = static_cast<const C*>(p.h) + first * p.inputs;
    const C* g = static_cast<const C*>(p.grad_output) + start;
    for (int64_t i = 0; i < n; i++)
      for (int64_t d = 0; d < p.size; d += kLanes<C>) {
        const int64_t k = i * p.size + d;
        Real<C> z = load(g + k);
        if (p.threshold) z *= dropout_factors<C>(p.bytes + start + k, p.threshold);
        store(tile.inputs + k, z);
        store(bias + d, load(bias + d) + z);
      }
    multiply<C, true, true>(p.size, p.inputs, n, Left<C>{tile.inputs, 1, p.size},
                            plain_rows(h, p.inputs), sums, p.inputs);
    multiply<C, false, false>(n, p.inputs, p.size, Left<C>{tile.inputs, p.size, 1},
                              plain_rows(static_cast<const C*>(p.weight), p.inputs),
                              static_cast<C*>(p.grad_h) + first * p.inputs, p.inputs);
  }
}

template <typename C>
static LinearSizes norm_linear_sizes_of(const NormLinearParams& p) {
  return {round_up(p.outputs, kPanel<C>) * p.size * static_cast<int64_t>(sizeof(C)),
          LinearTiles<C>(p.size, p.outputs, nullptr).bytes, NormLinearSums<C>(p, nullptr).count,
          kTileInputs};
}

template <typename C>
static LinearSizes add_linear_sizes_of(const AddLinearParams& p) {
  return {round_up(p.size, kPanel<C>) * p.inputs * static_cast<int64_t>(sizeof(C)),
          LinearTiles<C>(p.size, 0, nullptr).bytes, p.size * (p.inputs + 1), kTileInputs};
}

// Picks the instance for a call's precision.
static LinearSizes norm_linear_sizes(const NormLinearParams& p) {
  return (p.dtype == Dtype::float64 ? norm_linear_sizes_of<double>
                                    : norm_linear_sizes_of<float>)(p);
}

static void norm_linear_pack(const NormLinearParams& p, char* shared) {
  (p.dtype == Dtype::float64 ? norm_linear_pack_of<double> : norm_linear_pack_of<float>)(p, shared);
}

static void norm_linear_forward(const NormLinearParams& p, Range rows, char* shared,
                                char* scratch) {
  (p.dtype == Dtype::float64 ? norm_linear_forward_of<double>
                             : norm_linear_forward_of<float>)(p, rows, shared, scratch);
}

static void norm_linear_backward(const NormLinearBackwardParams& p, Range rows, void* sums,
                                 char* scratch) {
  (p.dtype == Dtype::float64 ? norm_linear_backward_of<double>
                             : norm_linear_backward_of<float>)(p, rows, sums, scratch);
}

static LinearSizes add_linear_sizes(const AddLinearParams& p) {
  return (p.dtype == Dtype::float64 ? add_linear_sizes_of<double> : add_linear_sizes_of<float>)(p);
}

static void add_linear_pack(const AddLinearParams& p, char* shared) {
  (p.dtype == Dtype::float64 ? add_linear_pack_of<double> : add_linear_pack_of<float>)(p, shared);
}

static void add_linear_forward(const AddLinearForwardParams& p, Range rows, char* shared,
                               char* scratch) {
  (p.dtype == Dtype::float64 ? add_linear_forward_of<double>
                             : add_linear_forward_of<float>)(p, rows, shared, scratch);
}

static void add_linear_backward(const AddLinearBackwardParams& p, Range rows, void* sums,
                                char* scratch) {
  (p.dtype == Dtype::float64 ? add_linear_backward_of<double>
                             : add_linear_backward_of<float>)(p, rows, sums, scratch);
}
