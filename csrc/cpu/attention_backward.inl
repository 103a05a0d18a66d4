// Backward of attention: one sequence, block of rows by block of rows. The names are those of the
// formula in hawkes_attention.h.
#pragma once

#include "scores.inl"

template <typename C, bool kAdditive>
struct BackwardPass {
  const HawkesBackwardParams& p;
  Sizes<C> sizes;
  int64_t first;           // token of the sequence's row 0
  int64_t n;               // tokens of the sequence
  int64_t padded, stride;  // of rows of scores, and between them
  bool symmetric;          // all g of a head are computed at once
  bool whole;              // all dg of a head are kept until dq = (dG + dG^T) Q
  Timeline<C> line;
  Scores<C> scores;
  DecayFactors<C, kAdditive> decay;
  FarField<C> far;
  int64_t room_size;        // of one head's values
  Rows<const C>* value;     // [H]
  Rows<const C>* upstream;  // [H, or 1 if heads are summed]: u
  Rows<C>* grad_value;      // [H]
  C *value_room, *upstream_room, *grad_value_room;
  C* value_panels;  // [H, padded / kPanel, Dv, kPanel]: V^T
  C* grad_query;    // [score heads, n, D]
  C* grad_key;      // [score heads, n, D], if the keys are not the queries
  C* all_g;         // [kBlockRows or padded, stride]
  C* grad_g;        // [kBlockRows or padded, stride]: dg, summed over heads
  C* weights;       // [kBlockRows, stride]
  C* grad_weights;  // [kBlockRows, stride]: c
  C* factors;       // [padded], of one row: w
  C* mask;          // [padded], of one row: m
  C* far_weight;    // [kBlockRows]: the weight of one far key

  // Takes memory from the arena. If that only counts, the task is the longest sequence.
  BackwardPass(Arena& arena, const HawkesBackwardParams& params, Task task)
      : p(params),
        sizes(p),
        first(arena.base ? p.cu_seqlens[task.sequence] : 0),
        n(task.last_row),
        padded(round_up(n, kPanel<C>)),
        stride(score_stride<C>(padded)),
        symmetric(p.key_is_query && !p.causal && padded <= kSymmetricLength),
        whole(p.key_is_query && padded <= kSymmetricLength),
        line(arena, padded),
        scores(arena, p, n),
        decay(arena, p, n),
        far(arena, p, n, sizes.value, true),
        room_size(usable_in_place<C>(p.dtype, p.value_size) ? 0 : n * sizes.value) {
    value = arena.take<Rows<const C>>(p.num_heads);
    upstream = arena.take<Rows<const C>>(sizes.output_heads);
    grad_value = arena.take<Rows<C>>(p.num_heads);
    value_room = arena.take<C>(p.num_heads * room_size);
    upstream_room = arena.take<C>(sizes.output_heads * room_size);
    grad_value_room = arena.take<C>(p.num_heads * room_size);
    value_panels = arena.take<C>(p.num_heads * padded * sizes.value);
    grad_query = arena.take<C>(sizes.score_heads * n * sizes.query);
    grad_key = arena.take<C>(p.key_is_query ? 0 : sizes.score_heads * n * sizes.query);
    all_g = arena.take<C>((symmetric ? padded : kBlockRows) * stride);
    grad_g = arena.take<C>((whole ? padded : kBlockRows) * stride);
    weights = arena.take<C>(kBlockRows * stride);
    grad_weights = arena.take<C>(kBlockRows * stride);
    factors = arena.take<C>(padded);
    mask = arena.take<C>(padded);
    far_weight = arena.take<C>(kBlockRows);
  }

  // Writes the sequence's part of the decay rates' gradients to grad_rate [H].
  void run(bool far_field, double* grad_rate) {
    read();
    clear_gradients(grad_rate);
    if (far_field && far_field_applies(p, line, scores.bound, n)) {
      far.enable(scores.bound, value);
      far.clear_grads();
    }
    for (int64_t score_head = 0; score_head < sizes.score_heads; score_head++)
      differentiate_scores(score_head, grad_rate);
    far.spread_grads(grad_value);
    write();
  }

 private:
  void read() {
    line.read(p, first, n, padded);
    scores.read(p, first);
    for (int64_t h = 0; h < p.num_heads; h++) {
      value[h] =
          read_rows<C>(p.dtype, p.value, h, first, n, p.value_size, value_room + h * room_size);
      pack_transposed(value[h].data, value[h].stride, n, sizes.value, C(1),
                      value_panels + h * padded * sizes.value);
      grad_value[h] = rows_to_write<C>(p.dtype, p.grad_value, h, first, p.value_size,
                                       grad_value_room + h * room_size);
    }
    for (int64_t h = 0; h < sizes.output_heads; h++)
      upstream[h] = read_rows<C>(p.dtype, p.grad_output, h, first, n, p.value_size,
                                 upstream_room + h * room_size);
  }

  void clear_gradients(double* grad_rate) {
    for (int64_t j = 0; j < n; j++)
      for (int64_t h = 0; h < p.num_heads; h++) clear(grad_value[h][j], sizes.value);
    clear(grad_query, sizes.score_heads * n * sizes.query);
    if (!p.key_is_query) clear(grad_key, sizes.score_heads * n * sizes.query);
    for (int64_t h = 0; h < p.num_heads; h++) grad_rate[h] = 0;
  }

  // All heads that have these scores: one, or all if they share them.
  void differentiate_scores(int64_t score_head, double* grad_rate) {
    const int64_t first_head = p.shared_scores ? 0 : score_head;
    const int64_t last_head = p.shared_scores ? p.num_heads : score_head + 1;
    if (whole) clear(grad_g, padded * stride);
    if (symmetric) scores.multiply_symmetric(score_head, all_g, stride);
    far.restart();
    const int64_t step = block_rows(n);
    for (int64_t row = 0; row < n; row += step) {
      const Block<C> block = Block<C>::of(row, minimum(step, n - row), n, p.causal, line.sorted);
      const Keys all = far.near(block, p, line);
      decay.start_block(block, line, all.low);
      const C* g = symmetric ? all_g + row * stride : all_g;
      if (!symmetric) scores.multiply_block(score_head, block, all, all_g, stride);
      C* dg = whole ? grad_g + row * stride : grad_g;
      if (!whole)
        for (int64_t r = 0; r < block.rows; r++)
          clear(dg + r * stride + all.low, all.high - all.low);
      for (int64_t h = first_head; h < last_head; h++)
        differentiate_head(block, score_head, h, g, dg, grad_rate);
      if (!whole) add_grad_query_and_key(block, all, score_head, dg);
    }
    if (whole) add_grad_query_at_once(score_head);
  }

  // Adds a head's part of dg, dv and drate.
  void differentiate_head(const Block<C>& block, int64_t score_head, int64_t h, const C* g, C* dg,
                          double* grad_rate) {
    const Keys keys = far.near_keys(h);
    const Rows<const C> of_head = upstream[p.sum_heads ? 0 : h];
    const Rows<const C> u = {of_head[block.first], of_head.stride};
    decay.start_head(p, h, line, keys);
    multiply_values(block, h, keys, u);
    grad_rate[h] -= differentiate_rows(block, score_head, h, keys, u, g, dg);
    add_grad_value(block, h, keys, u);
    if (far.count(keys, block, p.causal))
      far.add_grad(h, keys, block, far_weight, u.data, u.stride);
  }

  // c of a block, before dropout: <u_i, v_j>.
  void multiply_values(const Block<C>& block, int64_t h, Keys keys, Rows<const C> u) {
    const Panels<C> v = {value_panels + (h * padded + keys.low) * sizes.value, kPanel<C>,
                         kPanel<C> * sizes.value};
    block.for_strips([&](int64_t r, int64_t rows) {
      multiply<C, false, false>(rows, block.of_row(keys, r).high - keys.low, sizes.value,
                                Left<C>{u[r], u.stride, 1}, v, grad_weights + r * stride + keys.low,
                                stride);
    });
  }

  // Softmax row by row: the weights once more, and ds. Returns -drate.
  double differentiate_rows(const Block<C>& block, int64_t score_head, int64_t h, Keys keys,
                            Rows<const C> u, const C* g, C* dg) {
    const int64_t num_far = far.count(keys, block, p.causal);
    double rate = 0;
    for (int64_t r = 0; r < block.rows; r++) {
      const int64_t i = block.first + r;
      const Keys of_row = block.of_row(keys, r);
      C* weight = weights + r * stride;
      C* c = grad_weights + r * stride;
      if (p.dropout > 0) drop<C>(p, first + i, h, of_row, c, mask);
      const C log_sum = static_cast<const C*>(p.log_sum)[(first + i) * p.num_heads + h];
      const C bound = scores.row_bound(score_head, i, n - 1);
      const Softmax row =
          softmax_row(r, of_row, num_far, bound, static_cast<C>(kLog2E) * log_sum, g + r * stride,
                      c, weight);
      const C inverse_sum = row.sum == 0 ? C(0) : 1 / row.sum;
      far_weight[r] = row.far_weight * inverse_sum;
      C delta = row.dot * inverse_sum;
      if (num_far) delta += far_weight[r] * far.dot(h, keys, block, u[r]);
      rate += static_cast<double>(
          add_grad_scores(r, of_row, inverse_sum, delta, g + r * stride, c, weight,
                          dg + r * stride));
      if (p.dropout > 0)
        for (int64_t j = of_row.low; j < of_row.high; j++) weight[j] *= mask[j];
    }
    return kAdditive ? rate : rate * kLn2;  // g is in powers of 2
  }

  // The weights of a row, before they are divided by their sum.
  struct Softmax {
    C largest, sum;
    C dot;         // sum of the weights times c
    C far_weight;  // of one far key
  };

  // exp(s - log_sum) has the rounding error of log_sum, which the division by the sum takes out.
  // For two kinds of rows the largest score is subtracted instead: where scores are so large that
  // exp of the rounding may overflow, and where nearly all weight is on one key. That weight must
  // be 1 exactly, or c - delta would be the rounding error of c.
  inline __attribute__((always_inline)) Softmax softmax_row(int64_t r, Keys keys, int64_t num_far,
                                                            C bound, C log_sum, const C* g,
                                                            const C* c, C* weight) const {
    const C limit = kRoundedScore<C>;
    if (bound < limit && log_sum < limit && log_sum > -limit) {
      const Softmax row = weigh_row(r, keys, num_far, log_sum, c, weight,
                                    [&](int64_t j, Real<C> d) __attribute__((always_inline)) {
                                      return decay.score(load(g + j), d);
                                    });
      if (row.largest < kNearlyAll<C> * row.sum) return row;
    }
    const C largest = write_scores(decay, r, keys, g, weight);
    return weigh_row(r, keys, num_far, largest, c, weight,
                     [&](int64_t j, Real<C>) __attribute__((always_inline)) {
                       return load(weight + j);
                     });
  }

  // Writes the weights exp(s - shift) of a row, where s_j = score(j, decay), and the row's w.
  template <typename Score>
  inline __attribute__((always_inline)) Softmax weigh_row(int64_t r, Keys keys, int64_t num_far,
                                                          C shift, const C* c, C* weight,
                                                          Score score) const {
    const Real<C> m = broadcast(shift);
    Real<C> sum = Real<C>{}, dot = Real<C>{}, largest = Real<C>{};
    C* const w = factors;
    decay.for_keys(r, keys, [&](int64_t j, Real<C> d, Real<C>, auto visible)
                                __attribute__((always_inline)) {
                                  const Real<C> e =
                                      visible(power_of_2(score(j, d) - m), Real<C>{});
                                  sum += e;
                                  largest = larger(e, largest);
                                  dot += e * load(c + j);
                                  store(weight + j, e);
                                  if (!kAdditive) store(w + j, d);
                                });
    Softmax row;
    row.far_weight = num_far ? power_of_2_of(-shift) : C(0);
    row.sum = sum_lanes<C>(sum) + row.far_weight * static_cast<C>(num_far);
    row.dot = sum_lanes<C>(dot);
    row.largest = largest_lane<C>(largest);
    return row;
  }

  // Divides a row's weights by their sum and adds ds, or ds w, to its dg. Returns the sum of
  // ds_ij s_ij max(0, t_i - t_j), without s_ij if additive.
  inline __attribute__((always_inline)) C add_grad_scores(int64_t r, Keys keys, C inverse_sum,
                                                          C delta, const C* g, const C* c,
                                                          C* weight, C* dg) const {
    const Real<C> scale = broadcast(inverse_sum), mean = broadcast(delta);
    Real<C> rate = Real<C>{};
    const C* const w = factors;
    decay.for_keys(
        r, keys,
        [&](int64_t j, Real<C>, Real<C> elapsed, auto visible) __attribute__((always_inline)) {
          const Real<C> a = load(weight + j) * scale;
          Real<C> ds = visible(a * (load(c + j) - mean), Real<C>{});
          store(weight + j, a);
          if (!kAdditive) ds *= load(w + j);
          rate += (kAdditive ? ds : ds * load(g + j)) * elapsed;
          store(dg + j, load(dg + j) + ds);
        });
    return sum_lanes<C>(rate);
  }

  // dv of a block: of the keys before it from all rows, of its own, if causal, strip by strip.
  void add_grad_value(const Block<C>& block, int64_t h, Keys keys, Rows<const C> u) {
    const Rows<C> to = grad_value[h];
    const auto add = [&](int64_t j, int64_t count, int64_t r) {  // from the rows from r on
      multiply<C, true, true>(count, sizes.value, block.rows - r,
                              Left<C>{weights + r * stride + j, 1, stride},
                              plain_rows(u[r], u.stride), to[j], to.stride);
    };
    add(keys.low, (p.causal ? block.first : minimum(keys.high, n)) - keys.low, 0);
    if (p.causal)
      block.for_strips([&](int64_t r, int64_t rows) { add(block.first + r, rows, r); });
  }

  C* grad_query_of(int64_t score_head) { return grad_query + score_head * n * sizes.query; }
  C* grad_key_of(int64_t score_head) {
    return p.key_is_query ? grad_query_of(score_head) : grad_key + score_head * n * sizes.query;
  }

  // dq and dk of a block, without the factor `scale`.
  void add_grad_query_and_key(const Block<C>& block, Keys all, int64_t score_head, const C* dg) {
    const Rows<const C> query = scores.query[score_head], key = scores.key[score_head];
    const int64_t count = minimum(all.high, n) - all.low;
    multiply<C, false, true>(block.rows, sizes.query, count, Left<C>{dg + all.low, stride, 1},
                             plain_rows(key[all.low], key.stride),
                             grad_query_of(score_head) + block.first * sizes.query, sizes.query);
    multiply<C, true, true>(count, sizes.query, block.rows, Left<C>{dg + all.low, 1, stride},
                            plain_rows(query[block.first], query.stride),
                            grad_key_of(score_head) + all.low * sizes.query, sizes.query);
  }

  // dq + dk = (dG + dG^T) Q, without the factor `scale`.
  void add_grad_query_at_once(int64_t score_head) {
    const Rows<const C> query = scores.query[score_head];
    add_transpose(grad_g, round_up(n, kLanes<C>), stride);
    multiply<C, false, true>(n, sizes.query, n, Left<C>{grad_g, stride, 1},
                             plain_rows(query.data, query.stride), grad_query_of(score_head),
                             sizes.query);
  }

  void write() {
    const C scale = static_cast<C>(p.scale);
    for (int64_t h = 0; h < sizes.score_heads; h++) {
      write_rows<C>(p.dtype, {grad_query_of(h), sizes.query}, scale, p.grad_query, h, first, n,
                    p.query_size);
      if (!p.key_is_query)
        write_rows<C>(p.dtype, {grad_key_of(h), sizes.query}, scale, p.grad_key, h, first, n,
                      p.query_size);
    }
    for (int64_t h = 0; h < p.num_heads; h++)
      write_rows<C>(p.dtype, grad_value[h], C(1), p.grad_value, h, first, n, p.value_size);
  }
};

// Returns the bytes of scratch memory, which may be null.
template <typename C, bool kAdditive>
static int64_t backward_sequence(const HawkesBackwardParams& p, Task task, char* scratch,
                                 bool far_field) {
  Arena arena{scratch};
  BackwardPass<C, kAdditive> pass(arena, p, task);
  if (scratch) pass.run(far_field, p.grad_decay_rate + task.sequence * p.num_heads);
  return arena.used;
}
