// Forward of attention: some rows of one sequence, block by block. The names are those of the
// formula in hawkes_attention.h.
#pragma once

#include "scores.inl"

template <typename C, bool kAdditive>
struct ForwardPass {
  const HawkesForwardParams& p;
  Sizes<C> sizes;
  int64_t first_row, last_row;  // within the sequence
  int64_t first;                // token of the sequence's row 0
  int64_t length;               // of the sequence
  int64_t n;                    // keys of the last row
  int64_t padded, stride;       // of rows of scores, and between them
  bool symmetric;               // all g are computed at once
  Timeline<C> line;
  Scores<C> scores;
  DecayFactors<C, kAdditive> decay;
  FarField<C> far;
  int64_t value_room_size, value_panels_size;  // of one head
  Rows<const C>* value;                        // [H]
  C* value_room;
  C* value_panels;
  C* all_g;        // [kBlockRows or padded, stride]
  C* weights;      // [kBlockRows, stride], before they are divided by their sum
  C* output_room;  // [kBlockRows, Dv]
  // Of the rows of a block: what is subtracted from scores before exp, sums of weights, their
  // inverses, and the weight of one far key.
  C *shifts, *sums, *inverse_sum, *far_weight;  // [kBlockRows]
  Panels<C>* values;                            // [H]

  // Takes memory from the arena. If that only counts, the task is the longest sequence.
  ForwardPass(Arena& arena, const HawkesForwardParams& params, Task task)
      : p(params),
        sizes(p),
        first_row(task.first_row),
        last_row(task.last_row),
        first(arena.base ? p.cu_seqlens[task.sequence] : 0),
        length(arena.base ? p.cu_seqlens[task.sequence + 1] - first : last_row),
        n(p.causal ? last_row : length),
        padded(round_up(n, kPanel<C>)),
        stride(score_stride<C>(padded)),
        symmetric(p.key_is_query && p.shared_scores && !p.causal && padded <= kSymmetricLength &&
                  first_row == 0 && last_row == length),
        line(arena, padded),
        scores(arena, p, n),
        decay(arena, p, n),
        far(arena, p, n, sizes.value, false),
        value_room_size(usable_in_place<C>(p.dtype, p.value_size) ? 0 : n * sizes.value),
        value_panels_size(sizes.value <= kPanel<C> ? 0 : n * round_up(sizes.value, kPanel<C>)) {
    value = arena.take<Rows<const C>>(p.num_heads);
    value_room = arena.take<C>(p.num_heads * value_room_size);
    value_panels = arena.take<C>(p.num_heads * value_panels_size);
    all_g = arena.take<C>((symmetric ? padded : kBlockRows) * stride);
    weights = arena.take<C>(kBlockRows * stride);
    output_room = arena.take<C>(kBlockRows * sizes.value);
    shifts = arena.take<C>(kBlockRows);
    sums = arena.take<C>(kBlockRows);
    inverse_sum = arena.take<C>(kBlockRows);
    far_weight = arena.take<C>(kBlockRows);
    values = arena.take<Panels<C>>(p.num_heads);
  }

  void run(bool far_field) {
    read();
    if (symmetric) scores.multiply_symmetric(0, all_g, stride);
    if (far_field && far_field_applies(p, line, scores.bound, n)) far.enable(scores.bound, value);
    const int64_t step = block_rows(last_row - first_row);
    for (int64_t row = first_row; row < last_row; row += step)
      attend(Block<C>::of(row, minimum(step, last_row - row), n, p.causal, line.sorted));
  }

 private:
  void read() {
    line.read(p, first, n, padded);
    // Values are used last. Of longer sequences they would be gone again by then.
    if (n <= kSymmetricLength)
      for (int64_t h = 0; h < p.num_heads; h++)
        prefetch_rows<C>(p.dtype, p.value, h, first, n, p.value_size);
    scores.read(p, first);
    for (int64_t h = 0; h < p.num_heads; h++) {
      value[h] = read_rows<C>(p.dtype, p.value, h, first, n, p.value_size,
                              value_room + h * value_room_size);
      values[h] = pack_rows(value[h], n, sizes.value, value_panels + h * value_panels_size);
    }
  }

  void attend(const Block<C>& block) {
    const Keys all = far.near(block, p, line);
    decay.start_block(block, line, all.low);
    for (int64_t h = 0; h < p.num_heads; h++) {
      const Keys keys = far.near_keys(h);
      const C* g = scores_of(block, all, h);
      decay.start_head(p, h, line, keys);
      weigh(block, h, keys, g);
      write_log_sum(block, h);
      const int64_t output_head = p.sum_heads ? 0 : h, token = first + block.first;
      const Rows<C> output =
          rows_to_write<C>(p.dtype, p.output, output_head, token, p.value_size, output_room);
      add_values(block, h, keys, output);
      if (!p.sum_heads || h + 1 == p.num_heads)
        write_rows<C>(p.dtype, output, C(1), p.output, output_head, token, block.rows,
                      p.value_size);
    }
  }

  // g of a block; column j is key j. Heads that share their scores get them once.
  const C* scores_of(const Block<C>& block, Keys all, int64_t h) {
    if (symmetric) return all_g + block.first * stride;
    if (!p.shared_scores)
      scores.multiply_block(h, block, far.near_keys(h), all_g, stride);
    else if (h == 0)
      scores.multiply_block(0, block, all, all_g, stride);
    return all_g;
  }

  // Weights of a block, their sums and what depends on these.
  void weigh(const Block<C>& block, int64_t h, Keys keys, const C* g) {
    const int64_t num_far = far.count(keys, block, p.causal);
    for (int64_t r = 0; r < block.rows; r++) {
      const int64_t i = block.first + r;
      const Keys of_row = block.of_row(keys, r);
      C* weight = weights + r * stride;
      // If causal, the bound leaves out later keys, so that they do not even change the rounding.
      C shift = scores.row_bound(p.shared_scores ? 0 : h, i, p.causal ? i : n - 1);
      const Real<C> sum = shift < C(kBoundedScore) && !(kAdditive && p.mask_self)
                              ? weights_below_bound(r, of_row, g + r * stride, shift, weight)
                              : weights_below_largest(r, of_row, g + r * stride, shift, weight);
      const C of_far = num_far ? power_of_2_of(-shift) : C(0);
      shifts[r] = shift;
      sums[r] = sum_lanes<C>(sum) + of_far * static_cast<C>(num_far);
      inverse_sum[r] = sums[r] == 0 ? C(0) : 1 / sums[r];
      far_weight[r] = of_far * inverse_sum[r];
      if (p.dropout > 0) drop<C>(p, first + i, h, of_row, weight, nullptr);
    }
  }

  // Writes the weights of row r, exp(s - shift), where `shift` is a bound of the scores. Returns
  // their sum.
  inline __attribute__((always_inline)) Real<C> weights_below_bound(int64_t r, Keys keys,
                                                                    const C* g, C shift,
                                                                    C* weight) const {
    const Real<C> m = broadcast(shift);
    Real<C> sum = Real<C>{};
    decay.for_keys(r, keys, [&](int64_t j, Real<C> d, Real<C>, auto visible)
                                __attribute__((always_inline)) {
                                  const Real<C> x = decay.score(load(g + j), d) - m;
                                  // Additive decay has no lower bound.
                                  const Real<C> e = visible(
                                      kAdditive ? power_of_2(x) : bounded_power_of_2(x), Real<C>{});
                                  sum += e;
                                  store(weight + j, e);
                                });
    return sum;
  }

  // The same with the largest score as `shift`.
  inline __attribute__((always_inline)) Real<C> weights_below_largest(int64_t r, Keys keys,
                                                                      const C* g, C& shift,
                                                                      C* weight) const {
    shift = write_scores(decay, r, keys, g, weight);
    const Real<C> m = broadcast(shift);
    Real<C> sum = Real<C>{};
    decay.for_keys(r, keys, [&](int64_t j, Real<C>, Real<C>, auto visible)
                                __attribute__((always_inline)) {
                                  const Real<C> e =
                                      visible(power_of_2(load(weight + j) - m), Real<C>{});
                                  sum += e;
                                  store(weight + j, e);
                                });
    return sum;
  }

  // Not within `weigh`, where the call of log2 would spill all vectors.
  void write_log_sum(const Block<C>& block, int64_t h) const {
    for (int64_t r = 0; r < block.rows; r++)
      static_cast<C*>(p.log_sum)[(first + block.first + r) * p.num_heads + h] =
          sums[r] == 0
              ? C(0)
              : static_cast<C>(kLn2 * (shifts[r] + __builtin_log2(static_cast<double>(sums[r]))));
  }

  // The output of a block: weights times values, over the sums, and the far field.
  void add_values(const Block<C>& block, int64_t h, Keys keys, Rows<C> output) {
    const Panels<C> v = {values[h].data + keys.low * values[h].row_stride, values[h].row_stride,
                         values[h].panel_stride};
    const bool add = p.sum_heads && h > 0;
    const auto product = add ? multiply<C, false, true> : multiply<C, false, false>;
    block.for_strips([&](int64_t r, int64_t rows) {
      const int64_t depth = minimum(block.of_row(keys, r).high, n) - keys.low;
      product(rows, sizes.value, depth, {weights + r * stride + keys.low, stride, 1}, v,
              output[r], output.stride, inverse_sum + r);
    });
    if (far.count(keys, block, p.causal)) far.add(h, keys, block, far_weight, output);
  }
};

// Returns the bytes of scratch memory, which may be null.
template <typename C, bool kAdditive>
static int64_t forward_rows(const HawkesForwardParams& p, Task task, char* scratch,
                            bool far_field) {
  Arena arena{scratch};
  ForwardPass<C, kAdditive> pass(arena, p, task);
  if (scratch) pass.run(far_field);
  return arena.used;
}
