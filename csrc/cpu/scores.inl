// What the forward and the backward of attention share: the scores g = scale Q K^T, bounds of them,
// and dropout. The names are those of the formula in hawkes_attention.h.
#pragma once

#include "far_field.inl"

// Rounded sizes.
template <typename C>
struct Sizes {
  int64_t query, value;  // D and Dv, multiples of kLanes
  int64_t score_heads;   // 1 if the heads share the scores
  int64_t output_heads;  // 1 if they are summed
  explicit Sizes(const HawkesForwardParams& p)
      : query(round_up(p.query_size, kLanes<C>)),
        value(round_up(p.value_size, kLanes<C>)),
        score_heads(p.shared_scores ? 1 : p.num_heads),
        output_heads(p.sum_heads ? 1 : p.num_heads) {}
};

// Blocks of equal size, a multiple of the tile's rows.
static int64_t block_rows(int64_t rows) {
  const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  return blocks ? round_up((rows + blocks - 1) / blocks, kTileRows) : kBlockRows;
}
static_assert(kBlockRows % kTileRows == 0, "equal blocks must fit");

// Writes the norms of rows times `scale`, or the largest up to each row if `running`; returns the
// largest of all.
template <typename C>
static C largest_norm(Rows<const C> rows, int64_t n, int64_t width, double scale, C* norms,
                      bool running) {
  C largest = 0;
  for (int64_t i = 0; i < n; i++) {
    Real<C> sum = Real<C>{};
    for (int64_t d = 0; d < width; d += kLanes<C>) {
      const Real<C> x = load(rows[i] + d);
      sum += x * x;
    }
    const C norm = static_cast<C>(scale * __builtin_sqrt(static_cast<double>(sum_lanes<C>(sum))));
    if (norm > largest || norm != norm) largest = norm;  // NaN stays
    norms[i] = running ? largest : norm;
  }
  return largest;
}

// Where a row's scores have at most this bound, the bound is subtracted from them before exp, else
// their largest, which costs a pass more: with the distance between the two accuracy falls, and in
// the end exp underflows.
constexpr double kBoundedScore = 28.0;  // 20 in powers of e

// The score of a key that is masked, below all others. Not infinite: its difference from itself
// would be NaN.
template <typename C>
constexpr C kLowest = sizeof(C) == 4 ? C(-3e38) : C(-1e308);

// Beyond this the rounding of a score may be so large that exp of it overflows.
template <typename C>
constexpr C kRoundedScore = sizeof(C) == 4 ? C(1 << 18) : C(int64_t{1} << 40);

// Whether far keys can be left out, exactly or to within rounding, and that is worth its cost. With
// additive decay, each row must attend to itself, so that its largest score is not far below all g.
template <typename C>
static bool far_field_applies(const HawkesForwardParams& p, const Timeline<C>& line, C bound,
                              int64_t n) {
  if (!line.sorted || n < kFarFieldLength) return false;
  if (p.decay == Decay::additive) return !p.mask_self && bound < kRoundedScore<C>;
  return bound < C(kBoundedScore) && p.dropout == 0;
}

// A row whose largest weight is at least this share of their sum has the largest score subtracted
// before exp: the other weights are then as small as the rounding.
template <typename C>
constexpr C kNearlyAll = C(1) - C(1) / 4096;

// Multiplies the weights of a row by their dropout mask; writes the mask unless it is null.
template <typename C>
static void drop(const HawkesForwardParams& p, int64_t token, int64_t head, Keys keys, C* weights,
                 C* mask) {
  const uint64_t key = dropout_row_key(static_cast<uint64_t>(*p.seed), token, head);
  const uint32_t threshold = dropout_threshold(p.dropout);
  const C kept = static_cast<C>(1.0 / (1.0 - p.dropout));
  for (int64_t j = keys.low; j < keys.high; j++) {
    const C factor = dropout_bits(key, static_cast<uint32_t>(j)) >= threshold ? kept : C(0);
    weights[j] *= factor;
    if (mask) mask[j] = factor;
  }
}

// Up to this length arrays of all pairs of a sequence fit the second cache, and with Q = K two
// things are symmetric: g, and in the backward dG + dG^T, so that one product with Q serves dq and
// dk.
constexpr int64_t kSymmetricLength = 320;

// Queries and keys of a sequence, and the products of both.
template <typename C>
struct Scores {
  int64_t length, padded, width, heads;
  Rows<const C>* query;  // [heads]
  Rows<const C>* key;    // [heads]
  C* room;               // [heads, n, width] of the queries, then of the keys if they differ
  C* panels;             // [heads, padded / kPanel, width, kPanel], the keys times scale / ln 2
  C* query_norm;         // [heads, n]
  C* key_norm;           // [heads, n], the largest up to each
  C bound;               // of all |g_ij|

  Scores(Arena& arena, const HawkesForwardParams& p, int64_t n)
      : length(n),
        padded(round_up(n, kPanel<C>)),
        width(Sizes<C>(p).query),
        heads(Sizes<C>(p).score_heads) {
    query = arena.take<Rows<const C>>(heads);
    key = arena.take<Rows<const C>>(heads);
    room = arena.take<C>(usable_in_place<C>(p.dtype, p.query_size)
                             ? 0
                             : (p.key_is_query ? 1 : 2) * heads * n * width);
    panels = arena.take<C>(heads * padded * width);
    query_norm = arena.take<C>(heads * n);
    key_norm = arena.take<C>(heads * n);
  }

  void read(const HawkesForwardParams& p, int64_t first) {
    bound = 0;
    for (int64_t h = 0; h < heads; h++) {
      C* head_room = room + h * length * width;
      query[h] = read_rows<C>(p.dtype, p.query, h, first, length, p.query_size, head_room);
      key[h] = p.key_is_query ? query[h]
                              : read_rows<C>(p.dtype, p.key, h, first, length, p.query_size,
                                             head_room + heads * length * width);
      const double scale = p.scale * kLog2E;
      pack_transposed(key[h].data, key[h].stride, length, width, static_cast<C>(scale),
                      panels + h * padded * width);
      const C q = largest_norm(query[h], length, width, scale < 0 ? -scale : scale,
                               query_norm + h * length, false);
      const C k = largest_norm(key[h], length, width, 1, key_norm + h * length, true);
      if (q * k > bound || q * k != q * k) bound = q * k;
    }
  }

  // A bound of |g_ij| of row i over the keys up to `last`: the product of the norms (Cauchy and
  // Schwarz).
  C row_bound(int64_t head, int64_t i, int64_t last) const {
    return query_norm[head * length + i] * key_norm[head * length + last];
  }

  // All g of a head where they are symmetric: a panel's tiles on and above the diagonal, then their
  // mirror images.
  void multiply_symmetric(int64_t head, C* g, int64_t g_stride) const {
    for (int64_t row = 0; row < length; row += kPanel<C>) {
      const int64_t rows = minimum(kPanel<C>, length - row);
      multiply_rows(head, row, rows, {row, round_up(length, kLanes<C>)}, g + row * g_stride,
                    g_stride);
    }
    mirror_panels(g, length, g_stride);
  }

  // g of a block of rows; column j is key j.
  void multiply_block(int64_t head, const Block<C>& block, Keys keys, C* g,
                      int64_t g_stride) const {
    block.for_strips([&](int64_t r, int64_t rows) {
      multiply_rows(head, block.first + r, rows, {keys.low, minimum(keys.high, block.end_of(r))},
                    g + r * g_stride, g_stride);
    });
  }

  void multiply_rows(int64_t head, int64_t first, int64_t rows, Keys keys, C* g,
                     int64_t g_stride) const {
    const Panels<C> b = {panels + (head * padded + keys.low) * width, kPanel<C>, kPanel<C> * width};
    multiply<C, false, false>(rows, keys.high - keys.low, width,
                              Left<C>{query[head][first], query[head].stride, 1}, b, g + keys.low,
                              g_stride);
  }
};

// Writes the scores s of row r from its g, the lowest for keys that it does not attend to; returns
// the largest.
template <typename C, bool kAdditive>
EMOREC_LANES_INLINE C write_scores(const DecayFactors<C, kAdditive>& decay, int64_t r, Keys keys,
                                   const C* g, C* scores) {
  const Real<C> lowest = broadcast(kLowest<C>);
  Real<C> largest = lowest;
  decay.for_keys(r, keys, [&](int64_t j, Real<C> d, Real<C>, auto visible)
                              __attribute__((always_inline)) {
                                const Real<C> s = visible(decay.score(load(g + j), d), lowest);
                                largest = larger(s, largest);
                                store(scores + j, s);
                              });
  return largest_lane<C>(largest);
}
