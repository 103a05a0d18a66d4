// Forward and backward of one sequence, block of rows by block of rows. The names are those of the
// formula in hawkes_attention.h.

// Rounded sizes.
template <typename C>
struct Sizes {
  int64_t query, value;          // D and Dv, multiples of kLanes
  int64_t score_heads;           // 1 if the heads share the scores
  int64_t output_heads;          // 1 if they are summed
  explicit Sizes(const HawkesForwardParams& p)
      : query(round_up(p.query_size, kLanes<C>)),
        value(round_up(p.value_size, kLanes<C>)),
        score_heads(p.shared_scores ? 1 : p.num_heads),
        output_heads(p.sum_heads ? 1 : p.num_heads) {}
};

// Distance between the rows of arrays of scores: an odd number of cache lines, so that a column's
// elements spread over all sets of the first cache.
template <typename C>
static int64_t score_stride(int64_t padded) {
  const int64_t line = 64 / sizeof(C);
  return (round_up(padded, line) / line | 1) * line;
}

// Blocks of equal size, a multiple of the tile's rows.
static int64_t block_rows(int64_t rows) {
  const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  return blocks ? round_up((rows + blocks - 1) / blocks, kTileRows) : kBlockRows;
}
static_assert(kBlockRows % kTileRows == 0, "equal blocks must fit");

// Writes the norms of rows, or the running largest, and returns the largest of all.
template <typename C>
static C largest_norm(const C* rows, int64_t n, int64_t stride, C* norms, bool running) {
  C largest = 0;
  for (int64_t i = 0; i < n; i++) {
    Real<C> sum = Real<C>{};
    for (int64_t d = 0; d < stride; d += kLanes<C>) {
      const Real<C> x = load(rows + i * stride + d);
      sum += x * x;
    }
    const C norm = static_cast<C>(__builtin_sqrt(static_cast<double>(sum_lanes<C>(sum))));
    if (!(norm <= largest)) largest = norm;  // NaN too
    norms[i] = running ? largest : norm;
  }
  return largest;
}

// Up to this bound of the scores exp is shifted by the bound, beyond by a row's largest score: the
// shift costs accuracy in proportion, and later exp would underflow.
constexpr double kBoundedScore = 28.0;  // 20 in powers of e

// Multiplies the weights of a row by their dropout mask and writes the mask, if asked for.
template <typename C>
static void drop(const HawkesForwardParams& p, int64_t token, int64_t head, int64_t low,
                 int64_t high, C* weights, C* mask) {
  const uint64_t key = dropout_row_key(static_cast<uint64_t>(*p.seed), token, head);
  const uint32_t threshold = dropout_threshold(p.dropout);
  const C kept = static_cast<C>(1.0 / (1.0 - p.dropout));
  for (int64_t j = low; j < high; j++) {
    const C factor = dropout_bits(key, static_cast<uint32_t>(j)) >= threshold ? kept : C(0);
    weights[j] *= factor;
    if (mask) mask[j] = factor;
  }
}

// Up to this length arrays of all pairs of a sequence fit the second cache, and with Q = K two things
// are symmetric: g, and in the backward dG + dG^T, so that one product with Q serves dq and dk.
constexpr int64_t kSymmetricLength = 320;

// What both passes need of a sequence's queries and keys.
template <typename C>
struct Scores {
  int64_t length, padded, stride, heads;
  C* query;        // [heads, n, stride], times scale / ln 2
  C* key;          // [heads, n, stride]; for Q = K a single head's room
  C* panels;       // [heads, padded / kPanel, stride, kPanel]
  C* query_norm;   // [heads, n]
  C* key_norm;     // [heads, n], the largest up to each
  C bound;         // no |g_ij| is larger

  Scores(Arena& arena, const HawkesForwardParams& p, int64_t n)
      : length(n), padded(round_up(n, kPanel<C>)), stride(Sizes<C>(p).query),
        heads(Sizes<C>(p).score_heads) {
    query = arena.take<C>(heads * n * stride);
    key = arena.take<C>((p.key_is_query ? 1 : heads) * n * stride);
    panels = arena.take<C>(heads * padded * stride);
    query_norm = arena.take<C>(heads * n);
    key_norm = arena.take<C>(heads * n);
  }

  void read(const HawkesForwardParams& p, int64_t first) {
    bound = 0;
    for (int64_t h = 0; h < heads; h++) {
      C* head_key = p.key_is_query ? key : key + h * length * stride;
      read_rows<C>(p.dtype, p.query, h, first, length, p.query_size, static_cast<C>(p.scale * kLog2E),
                   query + h * length * stride, stride);
      read_rows<C>(p.dtype, p.key, h, first, length, p.query_size, C(1), head_key, stride);
      pack_transposed(head_key, length, stride, panels + h * padded * stride);
      const C q = largest_norm(query + h * length * stride, length, stride,
                               query_norm + h * length, false);
      const C k = largest_norm(head_key, length, stride, key_norm + h * length, true);
      if (!(q * k <= bound)) bound = q * k;
    }
  }

  // All of a head's g where it is symmetric: a panel's tiles on and above the diagonal, then their
  // mirror images.
  void multiply_symmetric(int64_t head, C* g, int64_t g_stride) const {
    for (int64_t row = 0; row < length; row += kPanel<C>) {
      const int64_t rows = minimum(kPanel<C>, length - row);
      const Block block = {row, rows, 0, 0, 0};
      multiply_block(head, block, {row, round_up(length, kLanes<C>)}, g + row * g_stride, g_stride);
    }
    mirror_panels(g, length, g_stride);
  }

  // g = scale Q K^T of some rows and keys; column j of g is key j.
  void multiply_block(int64_t head, const Block& block, Keys keys, C* g, int64_t g_stride) const {
    const C* rows = query + (head * length + block.first) * stride;
    const Panels<C> b = {panels + head * padded * stride + keys.low * stride, kPanel<C>,
                         kPanel<C> * stride};
    multiply<C, false, false>(block.rows, keys.high - keys.low, stride, Left<C>{rows, stride, 1}, b,
                              g + keys.low, g_stride);
  }
};

template <typename C, bool kAdditive>
static int64_t forward_rows(const HawkesForwardParams& p, Task task, char* scratch, bool far_field) {
  const Sizes<C> sizes(p);
  const int64_t first = scratch ? p.cu_seqlens[task.sequence] : 0;
  const int64_t length = scratch ? p.cu_seqlens[task.sequence + 1] - first : task.last_row;
  const int64_t n = p.causal ? task.last_row : length;
  const int64_t padded = round_up(n, kPanel<C>);
  const int64_t stride = score_stride<C>(padded);
  const int64_t num_heads = p.num_heads;
  const bool symmetric = p.key_is_query && p.shared_scores && !p.causal && padded <= kSymmetricLength &&
                         task.first_row == 0 && task.last_row == length;
  Arena arena{scratch};
  Timeline<C> line(arena, padded);
  Scores<C> scores(arena, p, n);
  DecayFactors<C, kAdditive> decay(arena, padded);
  FarField<C> far(arena, p, n, sizes.value, false);
  C* value = arena.take<C>(num_heads * n * sizes.value);
  C* value_panels = arena.take<C>(num_heads * padded * round_up(sizes.value, kPanel<C>));
  C* all_g = arena.take<C>((symmetric ? padded : kBlockRows) * stride);
  C* weights = arena.take<C>(kBlockRows * stride);
  C* output = arena.take<C>(kBlockRows * sizes.value);
  C* inverse_sum = arena.take<C>(kBlockRows);
  C* far_weight = arena.take<C>(kBlockRows);
  Panels<C>* values = arena.take<Panels<C>>(num_heads);
  if (!scratch) return arena.used;

  line.read(p, first, n, padded);
  scores.read(p, first);
  for (int64_t h = 0; h < num_heads; h++) {
    C* rows = value + h * n * sizes.value;
    read_rows<C>(p.dtype, p.value, h, first, n, p.value_size, C(1), rows, sizes.value);
    values[h] = pack_rows(rows, n, sizes.value,
                          value_panels + h * padded * round_up(sizes.value, kPanel<C>));
  }
  if (far_field && !kAdditive && scores.bound < C(kBoundedScore) && line.sorted && p.dropout == 0 && n >= kFarFieldLength)
    far.enable(scores.bound,
               [&](int64_t h, int64_t j) { return value + (h * n + j) * sizes.value; });

  const int64_t step = block_rows(task.last_row - task.first_row);
  for (int64_t row = task.first_row; row < task.last_row; row += step) {
    const Block block = Block::of<C>(row, minimum(step, task.last_row - row), n, p.causal,
                                     line.sorted);
    const Keys all = far.near(block, p, line);
    decay.start_block(block, line, all.low);
    for (int64_t h = 0; h < num_heads; h++) {
      const int64_t score_head = p.shared_scores ? 0 : h;
      const Keys keys = {far.low[h], far.high[h]};
      C* g = symmetric ? all_g + row * stride : all_g;
      if (symmetric) {
        if (row == 0 && h == 0) scores.multiply_symmetric(0, all_g, stride);
      } else if (h == 0 || !p.shared_scores) {
        scores.multiply_block(score_head, block, p.shared_scores ? all : keys, g, stride);
      }
      decay.start_head(p, h, line, keys.low, keys.high);
      const int64_t num_keys = p.causal ? block.first + block.rows : n;
      const int64_t num_far = keys.low + maximum(num_keys - keys.high, 0);

      for (int64_t r = 0; r < block.rows; r++) {
        const C* gr = g + r * stride;
        C* weight = weights + r * stride;
        Real<C> sum = Real<C>{};
        // No visible score is beyond the product of the norms (Cauchy and Schwarz). A row's bound
        // knows nothing of later keys if causal, so that they do not change even its rounding.
        const int64_t last_key = p.causal ? row + r : n - 1;
        C shift = scores.query_norm[score_head * n + row + r] *
                  scores.key_norm[score_head * n + last_key];
        if (shift < C(kBoundedScore) && !(kAdditive && p.mask_self)) {
          const Real<C> m = broadcast(shift);
          decay.for_keys(r, keys.low, keys.high, n, p.causal, p.mask_self,
                         [&](int64_t j, Real<C> d, Real<C>, auto visible)
                             __attribute__((always_inline)) {
                               const Real<C> e = visible(
                                   power_of_2(decay.score(load(gr + j), d) - m), Real<C>{});
                               sum += e;
                               store(weight + j, e);
                             });
        } else {
          const Real<C> lowest = broadcast(C(-1e30));
          Real<C> most = lowest;
          decay.for_keys(r, keys.low, keys.high, n, p.causal, p.mask_self,
                         [&](int64_t j, Real<C> d, Real<C>, auto visible)
                             __attribute__((always_inline)) {
                               const Real<C> s = visible(decay.score(load(gr + j), d), lowest);
                               most = larger(s, most);
                               store(weight + j, s);
                             });
          shift = largest_lane<C>(most);
          const Real<C> m = broadcast(shift);
          decay.for_keys(r, keys.low, keys.high, n, p.causal, p.mask_self,
                         [&](int64_t j, Real<C>, Real<C>, auto visible)
                             __attribute__((always_inline)) {
                               const Real<C> e =
                                   visible(power_of_2(load(weight + j) - m), Real<C>{});
                               sum += e;
                               store(weight + j, e);
                             });
        }
        const C of_far = num_far ? power_of_2_of(-shift) : C(0);
        const C total = sum_lanes<C>(sum) + of_far * static_cast<C>(num_far);
        inverse_sum[r] = total == 0 ? C(0) : 1 / total;
        far_weight[r] = of_far * inverse_sum[r];
        const int64_t token = first + row + r;
        static_cast<C*>(p.log_sum)[token * num_heads + h] =
            total == 0 ? C(0)
                       : static_cast<C>(kLn2 * (shift + __builtin_log2(static_cast<double>(total))));
        if (p.dropout > 0) drop<C>(p, token, h, keys.low, keys.high, weight, nullptr);
      }

      const Panels<C> b = {values[h].data + keys.low * values[h].row_stride, values[h].row_stride,
                           values[h].panel_stride};
      const Left<C> a = {weights + keys.low, stride, 1};
      const int64_t depth = minimum(keys.high, n) - keys.low;
      if (p.sum_heads && h > 0)
        multiply<C, false, true>(block.rows, sizes.value, depth, a, b, output, sizes.value,
                                 inverse_sum);
      else
        multiply<C, false, false>(block.rows, sizes.value, depth, a, b, output, sizes.value,
                                  inverse_sum);
      if (num_far) far.add(h, keys, block, far_weight, output);
      if (!p.sum_heads || h + 1 == num_heads)
        write_rows<C>(p.dtype, output, sizes.value, C(1), p.output, p.sum_heads ? 0 : h,
                      first + row, block.rows, p.value_size);
    }
  }
  return arena.used;
}

template <typename C, bool kAdditive>
static int64_t backward_sequence(const HawkesBackwardParams& p, Task task, char* scratch,
                                 bool far_field) {
  const Sizes<C> sizes(p);
  const int64_t first = scratch ? p.cu_seqlens[task.sequence] : 0;
  const int64_t n = task.last_row;
  const int64_t padded = round_up(n, kPanel<C>);
  const int64_t stride = score_stride<C>(padded);
  const int64_t num_heads = p.num_heads, score_heads = sizes.score_heads;
  const bool symmetric = p.key_is_query && !p.causal && padded <= kSymmetricLength;
  const bool whole = p.key_is_query && padded <= kSymmetricLength;
  Arena arena{scratch};
  Timeline<C> line(arena, padded);
  Scores<C> scores(arena, p, n);
  DecayFactors<C, kAdditive> decay(arena, padded);
  FarField<C> far(arena, p, n, sizes.value, true);
  C* value = arena.take<C>(num_heads * n * sizes.value);
  C* value_panels = arena.take<C>(num_heads * padded * sizes.value);
  C* upstream = arena.take<C>(sizes.output_heads * n * sizes.value);
  C* grad_query = arena.take<C>(score_heads * n * sizes.query);
  C* grad_key = arena.take<C>(p.key_is_query ? 0 : score_heads * n * sizes.query);
  C* grad_value = arena.take<C>(num_heads * n * sizes.value);
  C* all_g = arena.take<C>((symmetric ? padded : kBlockRows) * stride);
  C* grad_g = arena.take<C>((whole ? padded : kBlockRows) * stride);
  C* weights = arena.take<C>(kBlockRows * stride);
  C* grad_weights = arena.take<C>(kBlockRows * stride);
  C* factors = arena.take<C>(padded);
  C* mask = arena.take<C>(padded);
  C* far_weight = arena.take<C>(kBlockRows);
  if (!scratch) return arena.used;

  line.read(p, first, n, padded);
  scores.read(p, first);
  for (int64_t h = 0; h < num_heads; h++) {
    C* rows = value + h * n * sizes.value;
    read_rows<C>(p.dtype, p.value, h, first, n, p.value_size, C(1), rows, sizes.value);
    pack_transposed(rows, n, sizes.value, value_panels + h * padded * sizes.value);
  }
  for (int64_t h = 0; h < sizes.output_heads; h++)
    read_rows<C>(p.dtype, p.grad_output, h, first, n, p.value_size, C(1),
                 upstream + h * n * sizes.value, sizes.value);
  clear(grad_query, score_heads * n * sizes.query);
  if (!p.key_is_query) clear(grad_key, score_heads * n * sizes.query);
  clear(grad_value, num_heads * n * sizes.value);
  double* grad_rate = p.grad_decay_rate + task.sequence * num_heads;
  for (int64_t h = 0; h < num_heads; h++) grad_rate[h] = 0;
  if (far_field && !kAdditive && scores.bound < C(kBoundedScore) && line.sorted && p.dropout == 0 &&
      n >= kFarFieldLength) {
    far.enable(scores.bound,
               [&](int64_t h, int64_t j) { return value + (h * n + j) * sizes.value; });
    far.clear_grads();
  }

  const int64_t step = block_rows(n);
  // Keys' heads one by one where each has its own scores, else all in one pass.
  for (int64_t score_head = 0; score_head < score_heads; score_head++) {
    const int64_t first_head = score_head, last_head = p.shared_scores ? num_heads : score_head + 1;
    const C* head_query = scores.query + score_head * n * sizes.query;
    const C* head_key = scores.key + score_head * n * sizes.query;
    C* head_grad_query = grad_query + score_head * n * sizes.query;
    C* head_grad_key = p.key_is_query ? head_grad_query : grad_key + score_head * n * sizes.query;
    if (whole) clear(grad_g, padded * stride);
    if (symmetric) scores.multiply_symmetric(score_head, all_g, stride);
    far.restart();
    for (int64_t row = 0; row < n; row += step) {
      const Block block = Block::of<C>(row, minimum(step, n - row), n, p.causal, line.sorted);
      const Keys all = far.near(block, p, line);
      decay.start_block(block, line, all.low);
      C* g = symmetric ? all_g + row * stride : all_g;
      if (!symmetric) scores.multiply_block(score_head, block, all, g, stride);
      C* dg = whole ? grad_g + row * stride : grad_g;
      if (!whole)
        for (int64_t r = 0; r < block.rows; r++) clear(dg + r * stride + all.low, all.high - all.low);
      for (int64_t h = first_head; h < last_head; h++) {
        const Keys keys = {far.low[h], far.high[h]};
        const int64_t num_keys = p.causal ? block.first + block.rows : n;
        const int64_t num_far = keys.low + maximum(num_keys - keys.high, 0);
        const C* u = upstream + ((p.sum_heads ? 0 : h) * n + row) * sizes.value;
        decay.start_head(p, h, line, keys.low, keys.high);
        const Panels<C> v = {value_panels + (h * padded + keys.low) * sizes.value, kPanel<C>,
                             kPanel<C> * sizes.value};
        multiply<C, false, false>(block.rows, keys.high - keys.low, sizes.value,
                                  Left<C>{u, sizes.value, 1}, v, grad_weights + keys.low, stride);
        double rate_sum = 0;
        for (int64_t r = 0; r < block.rows; r++) {
          const int64_t token = first + row + r;
          const C* gr = g + r * stride;
          C* weight = weights + r * stride;
          C* c = grad_weights + r * stride;
          C* dgr = dg + r * stride;
          if (p.dropout > 0) drop<C>(p, token, h, keys.low, keys.high, c, mask);
          const C log_sum =
              static_cast<C>(kLog2E) * static_cast<const C*>(p.log_sum)[token * num_heads + h];
          const Real<C> shift = broadcast(log_sum);
          Real<C> sum = Real<C>{}, delta = Real<C>{};
          decay.for_keys(r, keys.low, keys.high, n, p.causal, p.mask_self,
                         [&](int64_t j, Real<C> d, Real<C>, auto visible)
                             __attribute__((always_inline)) {
                               const Real<C> e = visible(
                                   power_of_2(decay.score(load(gr + j), d) - shift), Real<C>{});
                               sum += e;
                               delta += e * load(c + j);
                               store(weight + j, e);
                               if (!kAdditive) store(factors + j, d);
                             });
          // exp(s - log_sum) carries the rounding of log_sum; dividing by the sum takes it out.
          const C of_far = num_far ? power_of_2_of(-log_sum) : C(0);
          const C total = sum_lanes<C>(sum) + of_far * static_cast<C>(num_far);
          const C inverse = total == 0 ? C(0) : 1 / total;
          far_weight[r] = of_far * inverse;
          C mean = sum_lanes<C>(delta) * inverse;
          if (num_far) mean += far_weight[r] * far.dot(h, keys, block, u + r * sizes.value);
          const Real<C> scale = broadcast(inverse), shared = broadcast(mean);
          Real<C> rate = Real<C>{};
          decay.for_keys(r, keys.low, keys.high, n, p.causal, p.mask_self,
                         [&](int64_t j, Real<C>, Real<C> elapsed, auto)
                             __attribute__((always_inline)) {
                               const Real<C> a = load(weight + j) * scale;
                               Real<C> ds = a * (load(c + j) - shared);
                               store(weight + j, a);
                               if (!kAdditive) ds *= load(factors + j);
                               rate += (kAdditive ? ds : ds * load(gr + j)) * elapsed;
                               store(dgr + j, load(dgr + j) + ds);
                             });
          rate_sum += static_cast<double>(sum_lanes<C>(rate));
          if (p.dropout > 0)
            for (int64_t j = keys.low; j < keys.high; j++) weight[j] *= mask[j];
        }
        grad_rate[h] -= kAdditive ? rate_sum : rate_sum * kLn2;
        multiply<C, true, true>(minimum(keys.high, n) - keys.low, sizes.value, block.rows,
                                Left<C>{weights + keys.low, 1, stride},
                                plain_rows(u, sizes.value),
                                grad_value + (h * n + keys.low) * sizes.value, sizes.value);
        if (num_far) far.add_grad(h, keys, block, far_weight, u);
      }
      if (!whole) {
        // The queries have scale / ln 2 in them; the rest is done when gradients are written.
        const int64_t count = minimum(all.high, n) - all.low;
        multiply<C, false, true>(block.rows, sizes.query, count, Left<C>{dg + all.low, stride, 1},
                                 plain_rows((p.key_is_query ? head_query : head_key) +
                                                all.low * sizes.query,
                                            sizes.query),
                                 head_grad_query + row * sizes.query, sizes.query);
        multiply<C, true, true>(count, sizes.query, block.rows, Left<C>{dg + all.low, 1, stride},
                                plain_rows(head_query + row * sizes.query, sizes.query),
                                head_grad_key + all.low * sizes.query, sizes.query);
      }
    }
    if (whole) {
      add_transpose(grad_g, round_up(n, kLanes<C>), stride);
      multiply<C, false, true>(n, sizes.query, n, Left<C>{grad_g, stride, 1},
                               plain_rows(head_query, sizes.query), head_grad_query, sizes.query);
    }
  }
  far.spread_grads(grad_value);
  for (int64_t h = 0; h < score_heads; h++) {
    write_rows<C>(p.dtype, grad_query + h * n * sizes.query, sizes.query,
                  static_cast<C>(p.key_is_query ? kLn2 : p.scale), p.grad_query, h, first, n,
                  p.query_size);
    if (!p.key_is_query)
      write_rows<C>(p.dtype, grad_key + h * n * sizes.query, sizes.query, static_cast<C>(kLn2), p.grad_key, h,
                    first, n, p.query_size);
  }
  for (int64_t h = 0; h < num_heads; h++)
    write_rows<C>(p.dtype, grad_value + h * n * sizes.value, sizes.value, C(1), p.grad_value, h,
                  first, n, p.value_size);
  return arena.used;
}

// Picks the instance for a call's precision and decay.
static int64_t forward_any(const HawkesForwardParams& p, Task task, char* scratch, bool far_field) {
  const bool additive = p.decay == Decay::additive;
  if (p.dtype == Dtype::float64)
    return (additive ? forward_rows<double, true> : forward_rows<double, false>)(p, task, scratch,
                                                                                 far_field);
  return (additive ? forward_rows<float, true> : forward_rows<float, false>)(p, task, scratch,
                                                                             far_field);
}

static int64_t backward_any(const HawkesBackwardParams& p, Task task, char* scratch,
                            bool far_field) {
  const bool additive = p.decay == Decay::additive;
  if (p.dtype == Dtype::float64)
    return (additive ? backward_sequence<double, true> : backward_sequence<double, false>)(
        p, task, scratch, far_field);
  return (additive ? backward_sequence<float, true> : backward_sequence<float, false>)(
      p, task, scratch, far_field);
}

static int64_t scratch_bytes(const HawkesForwardParams& p, int64_t length, bool backward) {
  const Task task = {0, 0, length};
  if (!backward) return forward_any(p, task, nullptr, false);
  HawkesBackwardParams q{};
  static_cast<HawkesForwardParams&>(q) = p;
  return backward_any(q, task, nullptr, false);
}

static void forward(const HawkesForwardParams& p, Task task, char* scratch, bool far_field) {
  forward_any(p, task, scratch, far_field);
}

static void backward(const HawkesBackwardParams& p, Task task, char* scratch, bool far_field) {
  backward_any(p, task, scratch, far_field);
}
