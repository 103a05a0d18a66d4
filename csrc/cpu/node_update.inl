// Update of nodes. The names are those of the formula in node_update.h.
#pragma once

#include "packing.inl"

constexpr int64_t kTileNodes = 8 * kTileRows;

// W^T and U^T of every kind, in panels, which all threads share.
template <typename C>
struct UpdateWeights {
  int64_t one;  // numbers of one matrix
  C* own;       // [K, ...]
  C* others;    // [K, J, ...]
  int64_t bytes;

  UpdateWeights(const NodeUpdateParams& p, char* shared)
      : one(round_up(p.size, kPanel<C>) * p.size) {
    Arena arena{shared};
    own = arena.take<C>(p.own ? p.num_kinds * one : 0);
    others = arena.take<C>(p.num_kinds * p.num_terms * one);
    bytes = arena.used;
  }
};

// One thread's tiles, [kTileNodes, D] each.
template <typename C>
struct UpdateTiles {
  C* h;         // or e
  C* scaled;    // c e of one term
  C* gathered;  // z of one term
  C* grad;      // dz of one term
  int64_t bytes;

  UpdateTiles(const NodeUpdateParams& p, char* scratch) {
    Arena arena{scratch};
    h = arena.take<C>(kTileNodes * p.size);
    scaled = arena.take<C>(kTileNodes * p.size);
    gathered = arena.take<C>(kTileNodes * p.size);
    grad = arena.take<C>(kTileNodes * p.size);
    bytes = arena.used;
  }
};

// What a task adds to the gradients of the weights.
template <typename C>
struct UpdateSums {
  C* own;     // [D, D]
  C* others;  // [J, D, D]
  C* bias;    // [D]
  C* gain;
  C* shift;
  int64_t count;

  UpdateSums(const NodeUpdateParams& p, C* sums) {
    const int64_t square = p.size * p.size;
    own = sums;
    others = own + (p.own ? square : 0);
    bias = others + p.num_terms * square;
    gain = bias + p.size;
    shift = gain + p.size;
    count = shift + p.size - sums;
  }
};

template <typename C>
static void update_pack_of(const NodeUpdateParams& p, char* shared) {
  const UpdateWeights<C> to(p, shared);
  const auto pack = [&](const void* from, int64_t count, C* panels) {
    for (int64_t m = 0; m < count; m++)
      pack_transposed(static_cast<const C*>(from) + m * p.size * p.size, p.size, p.size, p.size,
                      C(1), panels + m * to.one);
  };
  if (p.own) pack(p.own_weight, p.num_kinds, to.own);
  pack(p.others_weight, p.num_kinds * p.num_terms, to.others);
}

// Where z of term j is for n nodes.
struct TermRows {
  const int32_t* index;  // of the first node, num_terms apart; null: rows follow one another
  int64_t row;           // of the first node
  int64_t step;          // to the next one
};

// Most users have a node of each kind, so that most tiles find their rows side by side.
static TermRows find_rows(const NodeUpdateParams& p, int64_t first, int64_t n, int64_t j) {
  if (!p.index) return {nullptr, first * p.num_terms + j, p.num_terms};
  const int32_t* index = p.index + first * p.num_terms + j;
  for (int64_t i = 0; i < n; i++)
    if (*index < 0 || index[i * p.num_terms] != *index + i) return {index, 0, 0};
  return {nullptr, *index, 1};
}

// These rows, in place or gathered.
template <typename C>
static Rows<const C> read_term(const NodeUpdateParams& p, TermRows rows, int64_t n, C* gathered) {
  const C* others = static_cast<const C*>(p.others);
  if (!rows.index) return {others + rows.row * p.size, rows.step * p.size};
  for (int64_t i = 0; i < n; i++) {
    const int64_t row = rows.index[i * p.num_terms];
    for (int64_t d = 0; d < p.size; d += kLanes<C>)
      store(gathered + i * p.size + d, row < 0 ? Real<C>{} : load(others + row * p.size + d));
  }
  return {gathered, p.size};
}

template <typename C>
static void activate_and_normalize(const NodeUpdateForwardParams& p, int64_t v, C* row) {
  const C* gain = static_cast<const C*>(p.gain);
  const C* shift = static_cast<const C*>(p.shift);
  C* activated = static_cast<C*>(p.activated) + v * p.size;
  C* output = static_cast<C*>(p.output) + v * p.size;
  C* statistics = static_cast<C*>(p.statistics) + 2 * v;
  Real<C> sum{}, squares{};
  for (int64_t d = 0; d < p.size; d += kLanes<C>) {
    Real<C> a = load(row + d);
    if (p.elu) {
      // The exponential of what is not negative is not looked at, but must not overflow.
      const Real<C> below = larger(Real<C>{}, -a);
      a = a > C(0) ? a : power_of_2(below * static_cast<C>(-kLog2E)) - C(1);
    }
    store(row + d, a);
    sum += a;
  }
  const C mean = sum_lanes<C>(sum) / static_cast<C>(p.size);
  for (int64_t d = 0; d < p.size; d += kLanes<C>) {
    const Real<C> apart = load(row + d) - mean;
    squares += apart * apart;
  }
  const double variance = sum_lanes<C>(squares) / static_cast<C>(p.size);
  const C r = static_cast<C>(1 / __builtin_sqrt(variance + p.epsilon));
  for (int64_t d = 0; d < p.size; d += kLanes<C>) {
    const Real<C> a = load(row + d);
    store(activated + d, a);
    store(output + d, (a - mean) * r * load(gain + d) + load(shift + d));
  }
  statistics[0] = mean, statistics[1] = r;
}

template <typename C>
static void update_forward_of(const NodeUpdateForwardParams& p, int64_t kind, Range nodes,
                              char* shared, char* scratch) {
  const UpdateWeights<C> weights(p, shared);
  const UpdateTiles<C> tile(p, scratch);
  const C* own = static_cast<const C*>(p.own);
  const C* bias = static_cast<const C*>(p.bias);
  const C* scale = static_cast<const C*>(p.scale);
  const auto panels = [&](C* matrices, int64_t m) {
    return Panels<C>{matrices + m * weights.one, kPanel<C>, p.size * kPanel<C>};
  };
  for (int64_t first = nodes.first; first < nodes.last; first += kTileNodes) {
    const int64_t n = minimum(kTileNodes, nodes.last - first);
    for (int64_t i = 0; i < n; i++)
      for (int64_t d = 0; d < p.size; d++)
        tile.h[i * p.size + d] = bias ? bias[kind * p.size + d] : C(0);
    if (own)
      multiply<C, false, true>(n, p.size, p.size, Left<C>{own + first * p.size, p.size, 1},
                               panels(weights.own, kind), tile.h, p.size);
    for (int64_t j = 0; j < p.num_terms; j++) {
      const Rows<const C> z = read_term(p, find_rows(p, first, n, j), n, tile.gathered);
      multiply<C, false, true>(n, p.size, p.size, Left<C>{z.data, z.stride, 1},
                               panels(weights.others, kind * p.num_terms + j), tile.h, p.size,
                               scale ? scale + j * p.num_nodes + first : scale);
    }
    for (int64_t i = 0; i < n; i++) activate_and_normalize(p, first + i, tile.h + i * p.size);
  }
}

// e of one node, whose part of the sums is added.
template <typename C>
static void grad_of_row(const NodeUpdateBackwardParams& p, int64_t v, UpdateSums<C> sums, C* e) {
  const C* g = static_cast<const C*>(p.grad_output) + v * p.size;
  const C* a = static_cast<const C*>(p.activated) + v * p.size;
  const C* gain = static_cast<const C*>(p.gain);
  const C mean = static_cast<const C*>(p.statistics)[2 * v];
  const C r = static_cast<const C*>(p.statistics)[2 * v + 1];
  Real<C> sum{}, dot{};
  for (int64_t d = 0; d < p.size; d += kLanes<C>) {
    const Real<C> q = load(g + d) * load(gain + d);
    sum += q;
    dot += q * ((load(a + d) - mean) * r);
  }
  const C mean_q = sum_lanes<C>(sum) / static_cast<C>(p.size);
  const C mean_qn = sum_lanes<C>(dot) / static_cast<C>(p.size);
  for (int64_t d = 0; d < p.size; d += kLanes<C>) {
    const Real<C> own = load(g + d), activated = load(a + d);
    const Real<C> n = (activated - mean) * r;
    Real<C> error = r * (own * load(gain + d) - mean_q - n * mean_qn);
    if (p.elu) error = activated > C(0) ? error : error * (activated + C(1));
    store(e + d, error);
    store(sums.bias + d, load(sums.bias + d) + error);
    store(sums.gain + d, load(sums.gain + d) + own * n);
    store(sums.shift + d, load(sums.shift + d) + own);
  }
}

template <typename C>
static void update_backward_of(const NodeUpdateBackwardParams& p, int64_t kind, Range nodes,
                               void* sums_of_task, char* scratch) {
  const UpdateTiles<C> tile(p, scratch);
  const UpdateSums<C> sums(p, static_cast<C*>(sums_of_task));
  const int64_t square = p.size * p.size;
  const C* own = static_cast<const C*>(p.own);
  const C* own_weight = own ? static_cast<const C*>(p.own_weight) + kind * square : nullptr;
  const C* others_weight = static_cast<const C*>(p.others_weight) + kind * p.num_terms * square;
  const C* scale = static_cast<const C*>(p.scale);
  C* grad_own = static_cast<C*>(p.grad_own);
  C* grad_others = static_cast<C*>(p.grad_others);
  clear(static_cast<C*>(sums_of_task), sums.count);
  for (int64_t first = nodes.first; first < nodes.last; first += kTileNodes) {
    const int64_t n = minimum(kTileNodes, nodes.last - first);
    for (int64_t i = 0; i < n; i++) grad_of_row(p, first + i, sums, tile.h + i * p.size);
    if (own) {
      multiply<C, false, false>(n, p.size, p.size, Left<C>{tile.h, p.size, 1},
                                plain_rows(own_weight, p.size), grad_own + first * p.size, p.size);
      multiply<C, true, true>(p.size, p.size, n, Left<C>{tile.h, 1, p.size},
                              plain_rows(own + first * p.size, p.size), sums.own, p.size);
    }
    for (int64_t j = 0; j < p.num_terms; j++) {
      const C* e = tile.h;
      if (scale) {
        const C* factor = scale + j * p.num_nodes + first;
        for (int64_t i = 0; i < n; i++)
          for (int64_t d = i * p.size; d < (i + 1) * p.size; d++) tile.scaled[d] = factor[i] * e[d];
        e = tile.scaled;
      }
      const TermRows rows = find_rows(p, first, n, j);
      const Rows<const C> z = read_term(p, rows, n, tile.gathered);
      multiply<C, true, true>(p.size, p.size, n, Left<C>{e, 1, p.size},
                              plain_rows(z.data, z.stride), sums.others + j * square, p.size);
      const Rows<C> grad = rows.index
                               ? Rows<C>{tile.grad, p.size}
                               : Rows<C>{grad_others + rows.row * p.size, rows.step * p.size};
      multiply<C, false, false>(n, p.size, p.size, Left<C>{e, p.size, 1},
                                plain_rows(others_weight + j * square, p.size), grad.data,
                                grad.stride);
      for (int64_t i = 0; rows.index && i < n; i++) {
        const int64_t row = rows.index[i * p.num_terms];
        for (int64_t d = 0; row >= 0 && d < p.size; d += kLanes<C>)
          store(grad_others + row * p.size + d, load(grad[i] + d));
      }
    }
  }
}

template <typename C>
static NodeUpdateSizes update_sizes_of(const NodeUpdateParams& p) {
  return {UpdateWeights<C>(p, nullptr).bytes, UpdateTiles<C>(p, nullptr).bytes,
          UpdateSums<C>(p, nullptr).count, kTileNodes};
}

// Picks the instance for a call's precision.
static NodeUpdateSizes update_sizes(const NodeUpdateParams& p) {
  return (p.dtype == Dtype::float64 ? update_sizes_of<double> : update_sizes_of<float>)(p);
}

static void update_pack(const NodeUpdateParams& p, char* shared) {
  (p.dtype == Dtype::float64 ? update_pack_of<double> : update_pack_of<float>)(p, shared);
}

static void update_forward(const NodeUpdateForwardParams& p, int64_t kind, Range nodes,
                           char* shared, char* scratch) {
  (p.dtype == Dtype::float64 ? update_forward_of<double>
                             : update_forward_of<float>)(p, kind, nodes, shared, scratch);
}

static void update_backward(const NodeUpdateBackwardParams& p, int64_t kind, Range nodes,
                            void* sums, char* scratch) {
  (p.dtype == Dtype::float64 ? update_backward_of<double>
                             : update_backward_of<float>)(p, kind, nodes, sums, scratch);
}
