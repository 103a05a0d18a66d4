// Decay factors of one block of query rows.
//
// Where times and positions are sorted, the exponent of a pair splits into a part of the row and a
// part of the key: with the block's first row f and last row l,
//
//   keys before the block   x_ij = [rate (t_i - t_f) + (p_i - p_f) / W]
//                                  + [rate (t_f - t_j) + (p_f - p_j) / W]
//   keys after the block    x_ij = [(p_l - p_i) / W] + [(p_j - p_l) / W]
//
// All brackets are >= 0, so neither their sum nor the product of their exponentials loses accuracy,
// and a block needs one exponential per key and row instead of one per pair. Keys within the block,
// and all keys of an unsorted sequence, get their exponents pair by pair.
#pragma once

#include "packing.inl"

// A range of keys.
struct Keys {
  int64_t low, high;  // exclusive
};

// Times and positions of a sequence, from its first token on, repeated past its end.
template <typename C>
struct Timeline {
  double* time;
  IntScalar<C>* position;
  bool sorted;

  Timeline(Arena& arena, int64_t padded)
      : time(arena.take<double>(padded)),
        position(arena.take<IntScalar<C>>(padded)),
        sorted(true) {}

  void read(const HawkesForwardParams& p, int64_t first, int64_t n, int64_t padded) {
    sorted = true;
    for (int64_t i = 0; i < n; i++) {
      time[i] = p.time_int64 ? static_cast<double>(p.time_int64[first + i] - p.time_int64[first])
                             : p.time_float64[first + i] - p.time_float64[first];
      position[i] = position_difference(p.position[first + i], p.position[first]);
      if (i > 0 && !(time[i] >= time[i - 1] && position[i] >= position[i - 1])) sorted = false;
    }
    for (int64_t i = n; i < padded; i++) time[i] = time[n - 1], position[i] = position[n - 1];
  }
};

// A block of query rows and its keys: [0, left) before it, [left, right) pair by pair, [right, end)
// after it; left, right and end are multiples of kLanes.
//
// If causal, keys after a row are left out strip by strip: `strip` rows have the same keys.
template <typename C>
struct Block {
  int64_t first, rows, left, right, end, strip;

  static Block of(int64_t first, int64_t rows, int64_t n, bool causal, bool sorted) {
    const int64_t end = round_up(causal ? first + rows : n, kLanes<C>);
    const int64_t strip = causal ? 2 * kTileRows : rows;
    if (!sorted) return {first, rows, 0, end, end, strip};
    const int64_t right = minimum(round_up(first + rows, kLanes<C>), end);
    return {first, rows, first / kLanes<C> * kLanes<C>, right, end, strip};
  }

  // The end of the keys of row r.
  int64_t end_of(int64_t r) const {
    if (strip == rows) return end;
    return minimum(round_up(first + (r / strip + 1) * strip, kLanes<C>), end);
  }

  // These keys, without those that are left out for row r.
  Keys of_row(Keys keys, int64_t r) const { return {keys.low, minimum(keys.high, end_of(r))}; }

  // Calls f(first row, number of rows) for every strip.
  template <typename F>
  void for_strips(F f) const {
    for (int64_t r = 0; r < rows; r += strip) f(r, minimum(strip, rows - r));
  }
};

constexpr int64_t kBlockRows = 24;

template <typename C, bool kAdditive>
struct DecayFactors {
  int64_t num_keys;
  bool causal, mask_self;
  Block<C> block;
  // Of the block, for all heads.
  C* elapsed;      // [rows, right - left] max(0, t_i - t_j)
  C* distance;     // [rows, right - left] |p_i - p_j|
  C* since;        // [left] t_f - t_j
  C* row_elapsed;  // [rows] t_i - t_f
  int64_t pairs;   // right - left
  // Of one head, in powers of 2: the exponents x if additive, else the factors 2^-x.
  C* key_factor;  // [left] and [right, end)
  C* row_before;  // [rows]
  C* row_after;   // [rows]
  C rate, inverse_window;

  DecayFactors(Arena& arena, const HawkesForwardParams& p, int64_t n)
      : num_keys(n), causal(p.causal), mask_self(p.mask_self) {
    const int64_t padded = round_up(n, kPanel<C>);
    elapsed = arena.take<C>(kBlockRows * padded);
    distance = arena.take<C>(kBlockRows * padded);
    since = arena.take<C>(padded);
    key_factor = arena.take<C>(padded);
    row_elapsed = arena.take<C>(kBlockRows);
    row_before = arena.take<C>(kBlockRows);
    row_after = arena.take<C>(kBlockRows);
  }

  // Leaves out the keys before `low`.
  void start_block(const Block<C>& which, const Timeline<C>& line, int64_t low) {
    block = which;
    pairs = block.right - block.left;
    const double t_first = line.time[block.first];
    for (int64_t j = low; j < block.left; j += kLanes<C>)
      store(since + j, -narrow(line.time + j, t_first, C()));
    for (int64_t r = 0; r < block.rows; r++) {
      const int64_t i = block.first + r;
      row_elapsed[r] = static_cast<C>(line.time[i] - t_first);
      for (int64_t j = 0; j < pairs; j += kLanes<C>) {
        const Real<C> t = -narrow(line.time + block.left + j, line.time[i], C());
        const Real<C> p = to_real<C>(line.position[i] - load<C>(line.position + block.left + j));
        store(elapsed + r * pairs + j, larger(Real<C>{}, t));
        store(distance + r * pairs + j, larger(p, -p));
      }
    }
  }

  void start_head(const HawkesForwardParams& p, int64_t head, const Timeline<C>& line, Keys keys) {
    rate = static_cast<C>(p.decay_rate[head] * kLog2E);
    inverse_window = static_cast<C>(p.inverse_window[head] * kLog2E);
    const IntScalar<C> p_first = line.position[block.first];
    const IntScalar<C> p_last = line.position[block.first + block.rows - 1];
    for (int64_t j = keys.low; j < block.left; j += kLanes<C>)
      store(key_factor + j,
            factor(load(since + j) * rate +
                   to_real<C>(p_first - load<C>(line.position + j)) * inverse_window));
    for (int64_t j = block.right; j < keys.high; j += kLanes<C>)
      store(key_factor + j,
            factor(to_real<C>(load<C>(line.position + j) - p_last) * inverse_window));
    for (int64_t r = 0; r < block.rows; r++) {
      const IntScalar<C> position = line.position[block.first + r];
      const C before = static_cast<C>(position - p_first);
      const C after = static_cast<C>(p_last - position);
      row_before[r] = factor(broadcast(row_elapsed[r] * rate + before * inverse_window))[0];
      row_after[r] = factor(broadcast(after * inverse_window))[0];
    }
  }

  EMOREC_LANES_INLINE Real<C> factor(Real<C> exponent) {
    return kAdditive ? exponent : power_of_2(-exponent);
  }

  // Calls f(j, decay, elapsed, visible) for the vectors of a row's keys: `decay` is an argument of
  // `score` below, and visible(a, b) is a for the keys that the row attends to, else b.
  template <typename F>
  inline __attribute__((always_inline)) void for_keys(int64_t r, Keys keys, F f) const {
    const Real<C> before = broadcast(row_before[r]), after = broadcast(row_after[r]);
    const Real<C> since_first = broadcast(row_elapsed[r]);
    const Int<C> limit = broadcast_int<C>(causal ? block.first + r + 1 : num_keys);
    const Int<C> self = broadcast_int<C>(mask_self ? block.first + r : -1);
    const int64_t left = minimum(block.left, keys.high), right = minimum(block.right, keys.high);
    for (int64_t j = keys.low; j < left; j += kLanes<C>) {
      const Real<C> key = load(key_factor + j);
      f(j, kAdditive ? before + key : before * key, since_first + load(since + j), Everything{});
    }
    for (int64_t j = maximum(block.left, keys.low); j < right; j += kLanes<C>) {
      const C* pair = elapsed + r * pairs + j - block.left;
      const Real<C> t = load(pair);
      const Real<C> x = t * rate + load(pair + (distance - elapsed)) * inverse_window;
      const Int<C> key = iota<C>() + broadcast_int<C>(j);
      f(j, factor(x), t, Some{(key < limit) & (key != self)});
    }
    for (int64_t j = maximum(block.right, keys.low); j < keys.high; j += kLanes<C>) {
      const Real<C> key = load(key_factor + j);
      f(j, kAdditive ? after + key : after * key, Real<C>{},
        Some{iota<C>() + broadcast_int<C>(j) < limit});
    }
  }

  // Which keys of a vector a row attends to.
  struct Everything {
    Real<C> operator()(Real<C> visible, Real<C>) const { return visible; }
  };
  struct Some {
    Int<C> mask;
    Real<C> operator()(Real<C> visible, Real<C> masked) const { return mask ? visible : masked; }
  };

  EMOREC_LANES_INLINE Real<C> score(Real<C> g, Real<C> decay) {
    return kAdditive ? g - decay : g * decay;
  }
};
