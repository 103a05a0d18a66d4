// Far keys, whose decay is so strong that a block of rows leaves them out: it computes the keys in
// [low, high).
//
// Additive decay takes their weight to 0, so that nothing is changed. With multiplicative decay,
// where w_ij is so small that |g_ij w_ij| < epsilon, exp(s_ij) is 1 to within rounding: the far
// keys of a row add their number to the sum of its weights and the sum of their values to its
// output.
#pragma once

#include "decay.inl"

constexpr int64_t kFarFieldLength = 256;  // below, the sums cost more than they save

template <typename C>
struct FarField {
  bool on;
  const bool additive;
  int64_t num_heads, stride, length, padded, boundaries;
  C threshold = 0;  // exponent beyond which a key is far
  int64_t* low;     // [H], of the current block, multiples of kPanel
  int64_t* high;    // [H], multiples of kPanel, or the block's end
  C* sum_before;    // [H, boundaries, stride] sum of the values before each multiple of kPanel
  C* sum_after;     // [H, boundaries, stride] sum of the values from there on
  C* grad_before;   // [H, boundaries, stride] gradient of sum_before
  C* grad_after;

  FarField(Arena& arena, const HawkesForwardParams& p, int64_t n, int64_t stride, bool backward)
      : on(false),
        additive(p.decay == Decay::additive),
        num_heads(p.num_heads),
        stride(stride),
        length(n),
        padded(round_up(n, kPanel<C>)),
        boundaries(padded / kPanel<C> + 1) {
    const int64_t count = n >= kFarFieldLength && !additive ? num_heads * boundaries * stride : 0;
    low = arena.take<int64_t>(num_heads);
    high = arena.take<int64_t>(num_heads);
    sum_before = arena.take<C>(count);
    sum_after = arena.take<C>(count);
    grad_before = arena.take<C>(backward ? count : 0);
    grad_after = arena.take<C>(backward ? count : 0);
    if (arena.base) restart();
  }

  // `bound` is the largest |g_ij|; `values` are the heads' rows.
  void enable(C bound, const Rows<const C>* values) {
    on = true;
    if (additive) {
      // Of weights 2^(g - x - shift), where shift is at least the row's own score, -bound at the
      // least. The 1 is for the rounding of x.
      threshold = C(kLn2) * (kLowestExponent<C> + 1 + 2 * bound);
      return;
    }
    const C epsilon = sizeof(C) == 4 ? C(1e-7) : C(1e-16);
    threshold = static_cast<C>(__builtin_log(static_cast<double>(bound / epsilon)));
    for (int64_t h = 0; h < num_heads; h++)
      for (int64_t d = 0; d < stride; d += kLanes<C>) {
        Real<C> before = Real<C>{}, after = Real<C>{};
        for (int64_t j = 0; j < length; j++) {
          if (j % kPanel<C> == 0) store(at(sum_before, h, j) + d, before);
          before += load(values[h][j] + d);
        }
        store(at(sum_before, h, padded) + d, before);
        store(at(sum_after, h, padded) + d, after);
        for (int64_t j = length - 1; j >= 0; j--) {
          after += load(values[h][j] + d);
          if (j % kPanel<C> == 0) store(at(sum_after, h, j) + d, after);
        }
      }
  }

  // Finds the near keys of a block; returns the range of all heads together. Must be called block
  // by block, first rows first.
  Keys near(const Block<C>& block, const HawkesForwardParams& p, const Timeline<C>& line) {
    Keys all = {block.end, 0};
    for (int64_t h = 0; h < num_heads; h++) {
      if (on) {
        advance(block, line, static_cast<C>(p.decay_rate[h]), static_cast<C>(p.inverse_window[h]),
                h);
      } else {
        low[h] = 0, high[h] = block.end;
      }
      all.low = minimum(all.low, low[h]);
      all.high = maximum(all.high, high[h]);
    }
    return all;
  }

  // Starts again at the first block.
  void restart() {
    for (int64_t h = 0; h < num_heads; h++) low[h] = high[h] = 0;
  }

  // The near keys of a head, and how many far ones with a weight a block's rows have.
  Keys near_keys(int64_t head) const { return {low[head], high[head]}; }
  int64_t count(Keys near, const Block<C>& block, bool causal) const {
    if (additive) return 0;
    const int64_t end = causal ? block.first + block.rows : length;
    return near.low + maximum(end - near.high, 0);
  }

  // output += the far keys' share; far_weight is the weight of each of a row's far keys.
  void add(int64_t head, Keys keys, const Block<C>& block, const C* far_weight,
           Rows<C> output) const {
    for (int64_t d = 0; d < stride; d += kLanes<C>) {
      const Real<C> sum = sum_of(head, keys, block, d);
      for (int64_t r = 0; r < block.rows; r++) {
        C* to = output[r] + d;
        store(to, load(to) + sum * far_weight[r]);
      }
    }
  }

  // <u, sum of the far values>
  C dot(int64_t head, Keys keys, const Block<C>& block, const C* u) const {
    Real<C> sum = Real<C>{};
    for (int64_t d = 0; d < stride; d += kLanes<C>)
      sum += load(u + d) * sum_of(head, keys, block, d);
    return sum_lanes<C>(sum);
  }

  void clear_grads() {
    if (additive) return;
    clear(grad_before, num_heads * boundaries * stride);
    clear(grad_after, num_heads * boundaries * stride);
  }

  // The gradient of `add` for the sums, where u is the gradient of the output.
  void add_grad(int64_t head, Keys keys, const Block<C>& block, const C* far_weight, const C* u,
                int64_t u_stride) {
    for (int64_t d = 0; d < stride; d += kLanes<C>) {
      Real<C> sum = Real<C>{};
      for (int64_t r = 0; r < block.rows; r++) sum += load(u + r * u_stride + d) * far_weight[r];
      if (keys.low > 0) accumulate(at(grad_before, head, keys.low) + d, sum);
      if (keys.high < block.end) accumulate(at(grad_after, head, keys.high) + d, sum);
    }
  }

  // Adds the gradients of the sums to those of the values: a value is in every sum_before of a
  // later boundary and in every sum_after of an earlier one.
  void spread_grads(const Rows<C>* grad_values) const {
    if (!on || additive) return;
    for (int64_t h = 0; h < num_heads; h++)
      for (int64_t d = 0; d < stride; d += kLanes<C>) {
        Real<C> later = Real<C>{};
        for (int64_t from = padded - kPanel<C>; from >= 0; from -= kPanel<C>) {
          later += load(at(grad_before, h, from + kPanel<C>) + d);
          for (int64_t j = from; j < minimum(from + kPanel<C>, length); j++)
            accumulate(grad_values[h][j] + d, later);
        }
        Real<C> earlier = Real<C>{};
        for (int64_t from = 0; from < padded; from += kPanel<C>) {
          earlier += load(at(grad_after, h, from) + d);
          for (int64_t j = from; j < minimum(from + kPanel<C>, length); j++)
            accumulate(grad_values[h][j] + d, earlier);
        }
      }
  }

 private:
  static void accumulate(C* to, Real<C> amount) { store(to, load(to) + amount); }

  Real<C> sum_of(int64_t head, Keys keys, const Block<C>& block, int64_t d) const {
    Real<C> sum = load(at(sum_before, head, keys.low) + d);
    if (keys.high < block.end) sum += load(at(sum_after, head, keys.high) + d);
    return sum;
  }

  C* at(C* sums, int64_t head, int64_t key) const {
    return sums + (head * boundaries + key / kPanel<C>)*stride;
  }

  void advance(const Block<C>& block, const Timeline<C>& line, C rate, C inverse_window,
               int64_t h) {
    const int64_t first = block.first, last = block.first + block.rows - 1;
    int64_t j = low[h];
    while (j + kPanel<C> <= first) {
      const int64_t newest = j + kPanel<C> - 1;  // the nearest key of the panel
      const C x = rate * static_cast<C>(line.time[first] - line.time[newest]) +
                  inverse_window * static_cast<C>(line.position[first] - line.position[newest]);
      if (!(x > threshold)) break;
      j += kPanel<C>;
    }
    low[h] = j;
    j = maximum(high[h], round_up(last + 1, kPanel<C>));
    while (j < block.end &&
           inverse_window * static_cast<C>(line.position[j] - line.position[last]) <= threshold)
      j += kPanel<C>;
    high[h] = minimum(j, block.end);
  }
};
