// Attention over the edges of a graph. The names are those of the formula in graph_attention.h.
#pragma once

#include "packing.inl"

// Edges taken at a time: their weights and rows stay in the first cache until all heads are done.
constexpr int64_t kTileEdges = 64;
// How many edges ahead a row is prefetched: without that a gather waits for the memory of each.
constexpr int64_t kAhead = 16;

// Prefetches the row of the edge that comes kAhead later; from this one on there are `remaining`.
template <typename C>
EMOREC_LANES_INLINE void prefetch_row(const C* rows, int64_t stride, const int32_t* index,
                                      int64_t remaining) {
  const C* row = rows + index[minimum(kAhead, remaining - 1)] * stride;
  for (int64_t d = 0; d < stride; d += 64 / sizeof(C)) __builtin_prefetch(row + d);
}

// Memory of one task. Weights are [H, kTileEdges], sums [H, width] with a head's width in whole
// vectors.
template <typename C>
struct EdgeSums {
  int64_t width;
  C* weight;    // of edges, in all and
  C* above;     // above the bend
  C* gathered;  // [4, kTileEdges], of one head
  C* sum;
  C* sum_above;
  int64_t bytes;

  EdgeSums(const GraphAttentionParams& p, char* scratch) : width(round_up(p.size, kLanes<C>)) {
    Arena arena{scratch};
    weight = arena.take<C>(p.num_heads * kTileEdges);
    above = arena.take<C>(p.num_heads * kTileEdges);
    gathered = arena.take<C>(4 * kTileEdges);
    sum = arena.take<C>(p.num_heads * width);
    sum_above = arena.take<C>(p.num_heads * width);
    bytes = arena.used;
  }
};

// sum += weight * row and sum_above += above * row, over rows of kHeads heads next to each other,
// kVectors vectors of each. With `remaining` edges given, later rows are prefetched.
template <typename C, int kHeads, int kVectors>
static void add_block(const C* rows, int64_t stride, const int32_t* index, int64_t n,
                      int64_t remaining, const C* weight, const C* above, C* sum, C* sum_above) {
  constexpr int kSums = kHeads * kVectors;
  Real<C> s[kSums], a[kSums];
#pragma GCC unroll 4
  for (int j = 0; j < kSums; j++) {
    s[j] = load(sum + j * kLanes<C>);
    a[j] = load(sum_above + j * kLanes<C>);
  }
  for (int64_t i = 0; i < n; i++) {
    const C* row = rows + index[i] * stride;
    if (remaining) prefetch_row(rows, stride, index + i, remaining - i);
#pragma GCC unroll 4
    for (int j = 0; j < kSums; j++) {
      const int64_t edge = j / kVectors * kTileEdges + i;
      const Real<C> x = load(row + j * kLanes<C>);
      s[j] += weight[edge] * x;
      a[j] += above[edge] * x;
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < kSums; j++) {
    store(sum + j * kLanes<C>, s[j]);
    store(sum_above + j * kLanes<C>, a[j]);
  }
}

// The same for whole rows [H, width]: four vectors at a time keep the sums in registers and the
// processor busy, of one head or of several.
template <typename C>
static void add_rows(const EdgeSums<C>& of, int64_t num_heads, const C* rows, const int32_t* index,
                     int64_t n, int64_t remaining) {
  const int64_t stride = num_heads * of.width, vectors = of.width / kLanes<C>;
  const auto add = [&](auto block, int64_t head, int64_t vector) {
    const int64_t column = head * of.width + vector * kLanes<C>, edge = head * kTileEdges;
    block(rows + column, stride, index, n, column ? 0 : remaining, of.weight + edge,
          of.above + edge, of.sum + column, of.sum_above + column);
  };
  int64_t head = 0;
  if (vectors == 1)
    for (; head + 4 <= num_heads; head += 4) add(add_block<C, 4, 1>, head, 0);
  if (vectors == 2)
    for (; head + 2 <= num_heads; head += 2) add(add_block<C, 2, 2>, head, 0);
  for (; head < num_heads; head++) {
    int64_t vector = 0;
    for (; vector + 4 <= vectors; vector += 4) add(add_block<C, 1, 4>, head, vector);
    if (vector + 2 <= vectors) add(add_block<C, 1, 2>, head, vector), vector += 2;
    if (vector < vectors) add(add_block<C, 1, 1>, head, vector);
  }
}

// Rows of all heads [n, H, width]: those of a tensor [n, H, N] or, if they are not of whole vectors,
// what pad_rows has made of them in `room`.
template <typename C>
static const C* whole_rows(const GraphAttentionParams& p, const void* tensor, const C* room) {
  return p.size % kLanes<C> ? room : static_cast<const C*>(tensor);
}

template <typename C>
static void pad_rows(const GraphAttentionParams& p, const void* tensor, int64_t n, C* room) {
  if (whole_rows<C>(p, tensor, room) != room) return;
  const C* from = static_cast<const C*>(tensor);
  const int64_t width = round_up(p.size, kLanes<C>);
  for (int64_t i = 0; i < n * p.num_heads; i++)
    for (int64_t d = 0; d < width; d++)
      room[i * width + d] = d < p.size ? from[i * p.size + d] : C(0);
}

template <typename C>
static C dot(const C* a, const C* b, int64_t n) {
  Real<C> sum = Real<C>{};
  int64_t d = 0;
  for (; d + kLanes<C> <= n; d += kLanes<C>) sum += load(a + d) * load(b + d);
  C rest = 0;
  for (; d < n; d++) rest += a[d] * b[d];
  return sum_lanes<C>(sum) + rest;
}

// A tensor's row of one head, from sums [width].
template <typename C>
static void write_head(const C* sum, C scale, int64_t size, C* to) {
  for (int64_t d = 0; d < size; d++) to[d] = scale * sum[d];
}

template <typename C>
EMOREC_LANES_INLINE Real<C> leaky(Real<C> t, C slope) {
  return t > C(0) ? t : slope * t;
}

// What all tasks share: the rows that are gathered, and in the backward what is gathered with them.
template <typename C>
struct GraphArrays {
  C* rows;   // [n, H, width], where the tensor's rows are not of whole vectors
  C* nodes;  // [V, 4, H]: r, the largest e over ln 2, 1 / sum exp, c
  int64_t bytes;

  GraphArrays(const GraphAttentionParams& p, bool backward, char* shared) {
    Arena arena{shared};
    const int64_t width = round_up(p.size, kLanes<C>);
    const int64_t n = backward ? p.num_targets : p.num_sources;
    rows = arena.take<C>(width == p.size ? 0 : n * p.num_heads * width);
    nodes = arena.take<C>(backward ? 4 * p.num_targets * p.num_heads : 0);
    bytes = arena.used;
  }
};

template <typename C>
static void pack_graph(const GraphAttentionParams& p, char* shared) {
  pad_rows(p, p.x, p.num_sources, GraphArrays<C>(p, false, shared).rows);
}

template <typename C>
static void attend_targets(const GraphAttentionForwardParams& p, Range targets, char* shared,
                           char* scratch) {
  const EdgeSums<C> of(p, scratch);
  const int64_t num_heads = p.num_heads;
  const C slope = static_cast<C>(p.slope), log2e = static_cast<C>(kLog2E);
  const C *left = static_cast<const C*>(p.left), *right = static_cast<const C*>(p.right);
  const C* rows = whole_rows<C>(p, p.x, GraphArrays<C>(p, false, shared).rows);
  const int64_t end = p.offsets[targets.last];
  for (int64_t v = targets.first; v < targets.last; v++) {
    C* totals = static_cast<C*>(p.totals) + v * 3 * num_heads;
    C *largest = totals, *total = totals + num_heads, *share = totals + 2 * num_heads;
    const int64_t first = p.offsets[v], last = p.offsets[v + 1];
    clear(of.sum, num_heads * of.width);
    clear(of.sum_above, num_heads * of.width);
    clear(totals, 3 * num_heads);
    for (int64_t e = first; e < last; e += kTileEdges) {
      const int32_t* source = p.source + e;
      const int64_t n = minimum(kTileEdges, last - e), padded = round_up(n, kLanes<C>);
      for (int64_t h = 0; h < num_heads; h++) {
        C *weight = of.weight + h * kTileEdges, *above = of.above + h * kTileEdges;
        const C own = right[v * num_heads + h];
        for (int64_t i = 0; i < n; i++) weight[i] = log2e * (left[source[i] * num_heads + h] + own);
        for (int64_t i = n; i < padded; i++) weight[i] = -static_cast<C>(__builtin_inf());
        // The leaky ReLU grows, so the largest t has the largest e.
        Real<C> top = load(weight), sum = Real<C>{}, sum_above = Real<C>{};
        for (int64_t i = kLanes<C>; i < padded; i += kLanes<C>) top = larger(top, load(weight + i));
        C now = leaky(broadcast(largest_lane<C>(top)), slope)[0];
        if (e > first) {
          now = now > largest[h] ? now : largest[h];
          const C factor = power_of_2_of(largest[h] - now);
          total[h] *= factor, share[h] *= factor;
          for (int64_t d = h * of.width; d < (h + 1) * of.width; d++)
            of.sum[d] *= factor, of.sum_above[d] *= factor;
        }
        largest[h] = now;
        for (int64_t i = 0; i < padded; i += kLanes<C>) {
          const Real<C> t = load(weight + i);
          const Real<C> w = power_of_2(leaky(t, slope) - now);
          const Real<C> w_above = t > C(0) ? w : Real<C>{};
          store(weight + i, w);
          store(above + i, w_above);
          sum += w, sum_above += w_above;
        }
        total[h] += sum_lanes<C>(sum), share[h] += sum_lanes<C>(sum_above);
      }
      add_rows(of, num_heads, rows, source, n, end - e);
    }
    for (int64_t h = 0; h < num_heads; h++) {
      const C inverse = first < last ? C(1) / total[h] : C(0);
      total[h] = inverse, share[h] *= inverse;
      const int64_t at = (v * num_heads + h) * p.size;
      write_head(of.sum + h * of.width, inverse, p.size, static_cast<C*>(p.output) + at);
      write_head(of.sum_above + h * of.width, inverse, p.size, static_cast<C*>(p.above) + at);
    }
  }
}

// What the backward gathers of each target; the gradient of r on the way.
template <typename C>
static void pack_graph_gradient(const GraphAttentionBackwardParams& p, char* shared) {
  const GraphArrays<C> to(p, true, shared);
  pad_rows(p, p.grad_output, p.num_targets, to.rows);
  const int64_t num_heads = p.num_heads;
  const C slope = static_cast<C>(p.slope);
  const C *g = static_cast<const C*>(p.grad_output), *m = static_cast<const C*>(p.output),
          *above = static_cast<const C*>(p.above);
  for (int64_t v = 0; v < p.num_targets; v++) {
    const C* totals = static_cast<const C*>(p.totals) + v * 3 * num_heads;
    C* node = to.nodes + v * 4 * num_heads;
    for (int64_t h = 0; h < num_heads; h++, g += p.size, m += p.size, above += p.size) {
      const int64_t at = v * num_heads + h;
      const C c = dot(g, m, p.size);
      node[h] = static_cast<const C*>(p.right)[at];
      node[num_heads + h] = totals[h];
      node[2 * num_heads + h] = totals[num_heads + h];
      node[3 * num_heads + h] = c;
      // Over all edges, <g, m> - c is 0: what is above the bend is all that is left.
      static_cast<C*>(p.grad_right)[at] =
          (1 - slope) * (dot(g, above, p.size) - c * totals[2 * num_heads + h]);
    }
  }
}

template <typename C>
static void attend_sources(const GraphAttentionBackwardParams& p, Range sources, char* shared,
                           char* scratch) {
  const EdgeSums<C> of(p, scratch);
  const GraphArrays<C> from(p, true, shared);
  const int64_t num_heads = p.num_heads;
  const C slope = static_cast<C>(p.slope), log2e = static_cast<C>(kLog2E);
  const C *left = static_cast<const C*>(p.left), *x = static_cast<const C*>(p.x);
  const C* rows = whole_rows<C>(p, p.grad_output, from.rows);
  C *t = of.gathered, *largest = t + kTileEdges, *inverse = t + 2 * kTileEdges,
    *c = t + 3 * kTileEdges;
  const int64_t end = p.source_offsets[sources.last];
  for (int64_t u = sources.first; u < sources.last; u++) {
    const int64_t first = p.source_offsets[u], last = p.source_offsets[u + 1];
    C* grad_left = static_cast<C*>(p.grad_left) + u * num_heads;
    clear(of.sum, num_heads * of.width);
    clear(of.sum_above, num_heads * of.width);
    clear(grad_left, num_heads);
    for (int64_t e = first; e < last; e += kTileEdges) {
      const int32_t* target = p.target + e;
      const int64_t n = minimum(kTileEdges, last - e), padded = round_up(n, kLanes<C>);
      for (int64_t h = 0; h < num_heads; h++) {
        C *weight = of.weight + h * kTileEdges, *above = of.above + h * kTileEdges;
        const C own = left[u * num_heads + h];
        for (int64_t i = 0; i < n; i++) {
          if (h == 0) prefetch_row<C>(from.nodes, 4 * num_heads, target + i, end - e - i);
          const C* node = from.nodes + target[i] * 4 * num_heads + h;
          t[i] = log2e * (own + node[0]);
          largest[i] = node[num_heads];
          inverse[i] = node[2 * num_heads];
          c[i] = node[3 * num_heads];
        }
        for (int64_t i = n; i < padded; i++) t[i] = largest[i] = inverse[i] = c[i] = 0;
        Real<C> sum = Real<C>{};
        for (int64_t i = 0; i < padded; i += kLanes<C>) {
          const Real<C> each = load(t + i);
          const Real<C> w = power_of_2(leaky(each, slope) - load(largest + i)) * load(inverse + i);
          const Real<C> w_above = each > C(0) ? w : Real<C>{};
          store(weight + i, w);
          store(above + i, w_above);
          sum += (slope * w + (1 - slope) * w_above) * load(c + i);
        }
        grad_left[h] -= sum_lanes<C>(sum);
      }
      add_rows(of, num_heads, rows, target, n, end - e);
    }
    for (int64_t h = 0; h < num_heads; h++) {
      const C *sum = of.sum + h * of.width, *above = of.sum_above + h * of.width;
      const int64_t at = (u * num_heads + h) * p.size;
      grad_left[h] += slope * dot(sum, x + at, p.size) + (1 - slope) * dot(above, x + at, p.size);
      write_head(sum, C(1), p.size, static_cast<C*>(p.grad_x) + at);
    }
  }
}

template <typename C>
static GraphSizes graph_sizes_of(const GraphAttentionParams& p, bool backward) {
  return {GraphArrays<C>(p, backward, nullptr).bytes, EdgeSums<C>(p, nullptr).bytes};
}

// Picks the instance for a call's precision.
static GraphSizes graph_sizes(const GraphAttentionParams& p, bool backward) {
  return (p.dtype == Dtype::float64 ? graph_sizes_of<double> : graph_sizes_of<float>)(p, backward);
}

static void graph_pack(const GraphAttentionParams& p, char* shared) {
  (p.dtype == Dtype::float64 ? pack_graph<double> : pack_graph<float>)(p, shared);
}

static void graph_targets(const GraphAttentionForwardParams& p, Range targets, char* shared,
                          char* scratch) {
  (p.dtype == Dtype::float64 ? attend_targets<double> : attend_targets<float>)(p, targets, shared,
                                                                               scratch);
}

static void graph_pack_gradient(const GraphAttentionBackwardParams& p, char* shared) {
  (p.dtype == Dtype::float64 ? pack_graph_gradient<double> : pack_graph_gradient<float>)(p, shared);
}

static void graph_sources(const GraphAttentionBackwardParams& p, Range sources, char* shared,
                          char* scratch) {
  (p.dtype == Dtype::float64 ? attend_sources<double> : attend_sources<float>)(p, sources, shared,
                                                                               scratch);
}
