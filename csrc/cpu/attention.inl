// Forward and backward of one sequence, block of rows by block of rows. The names are those of the
// formula in hawkes_attention.h.

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

// Writes the norms of rows, or the running largest, times `scale`; returns the largest of all.
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

// Up to this bound of the scores exp is shifted by the bound, beyond by a row's largest score: the
// shift costs accuracy in proportion, and later exp would underflow.
constexpr double kBoundedScore = 28.0;  // 20 in powers of e

// The score of a key that is not seen, below all others. Not infinite: its difference from itself
// would be NaN.
template <typename C>
constexpr C kLowest = sizeof(C) == 4 ? C(-3e38) : C(-1e308);

// Beyond this a score's rounding may come near what exp can hold.
template <typename C>
constexpr C kRoundedScore = sizeof(C) == 4 ? C(1 << 18) : C(int64_t{1} << 40);

// Share of one key from which the weights of a row are taken from its largest score. The others'
// share is then that of the rounding.
template <typename C>
constexpr C kNearlyAll = C(1) - C(1) / 4096;

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

// Up to this length arrays of all pairs of a sequence fit the second cache, and with Q = K two
// things are symmetric: g, and in the backward dG + dG^T, so that one product with Q serves dq and
// dk.
constexpr int64_t kSymmetricLength = 320;

// What both passes need of a sequence's queries and keys.
template <typename C>
struct Scores {
  int64_t length, padded, width, heads;
  Rows<const C>* query;  // [heads]
  Rows<const C>* key;    // [heads]
  C* room;               // [heads, n, width] of the queries, then of the keys if they differ
  C* panels;             // [heads, padded / kPanel, width, kPanel], the keys times scale / ln 2
  C* query_norm;         // [heads, n]
  C* key_norm;           // [heads, n], the largest up to each
  C bound;               // no |g_ij| is larger

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

  // All of a head's g where it is symmetric: a panel's tiles on and above the diagonal, then their
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

template <typename C, bool kAdditive>
static int64_t forward_rows(const HawkesForwardParams& p, Task task, char* scratch,
                            bool far_field) {
  const Sizes<C> sizes(p);
  const int64_t first = scratch ? p.cu_seqlens[task.sequence] : 0;
  const int64_t length = scratch ? p.cu_seqlens[task.sequence + 1] - first : task.last_row;
  const int64_t n = p.causal ? task.last_row : length;
  const int64_t padded = round_up(n, kPanel<C>);
  const int64_t stride = score_stride<C>(padded);
  const int64_t num_heads = p.num_heads;
  const bool symmetric = p.key_is_query && p.shared_scores && !p.causal &&
                         padded <= kSymmetricLength && task.first_row == 0 &&
                         task.last_row == length;
  Arena arena{scratch};
  Timeline<C> line(arena, padded);
  Scores<C> scores(arena, p, n);
  DecayFactors<C, kAdditive> decay(arena, padded);
  FarField<C> far(arena, p, n, sizes.value, false);
  const int64_t room = usable_in_place<C>(p.dtype, p.value_size) ? 0 : n * sizes.value;
  const int64_t panels_size = sizes.value <= kPanel<C> ? 0 : n * round_up(sizes.value, kPanel<C>);
  Rows<const C>* value = arena.take<Rows<const C>>(num_heads);
  C* value_room = arena.take<C>(num_heads * room);
  C* value_panels = arena.take<C>(num_heads * panels_size);
  C* all_g = arena.take<C>((symmetric ? padded : kBlockRows) * stride);
  C* weights = arena.take<C>(kBlockRows * stride);
  C* output = arena.take<C>(kBlockRows * sizes.value);
  C* shifts = arena.take<C>(kBlockRows);
  C* sums = arena.take<C>(kBlockRows);
  C* inverse_sum = arena.take<C>(kBlockRows);
  C* far_weight = arena.take<C>(kBlockRows);
  Panels<C>* values = arena.take<Panels<C>>(num_heads);
  if (!scratch) return arena.used;

  line.read(p, first, n, padded);
  scores.read(p, first);
  for (int64_t h = 0; h < num_heads; h++) {
    value[h] = read_rows<C>(p.dtype, p.value, h, first, n, p.value_size, value_room + h * room);
    values[h] = pack_rows(value[h], n, sizes.value, value_panels + h * panels_size);
  }
  if (far_field && !kAdditive && scores.bound < C(kBoundedScore) && line.sorted && p.dropout == 0 &&
      n >= kFarFieldLength)
    far.enable(scores.bound, value);

  const int64_t step = block_rows(task.last_row - task.first_row);
  for (int64_t row = task.first_row; row < task.last_row; row += step) {
    const Block<C> block =
        Block<C>::of(row, minimum(step, task.last_row - row), n, p.causal, line.sorted);
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
        const int64_t high = minimum(keys.high, block.end_of(r));
        Real<C> sum = Real<C>{};
        // No visible score is beyond the product of the norms (Cauchy and Schwarz). A row's bound
        // knows nothing of later keys if causal, so that they do not change even its rounding.
        const int64_t last_key = p.causal ? row + r : n - 1;
        C shift = scores.query_norm[score_head * n + row + r] *
                  scores.key_norm[score_head * n + last_key];
        if (shift < C(kBoundedScore) && !(kAdditive && p.mask_self)) {
          const Real<C> m = broadcast(shift);
          decay.for_keys(
              r, keys.low, high, n, p.causal, p.mask_self,
              [&](int64_t j, Real<C> d, Real<C>, auto visible) __attribute__((always_inline)) {
                const Real<C> x = decay.score(load(gr + j), d) - m;
                // Additive decay takes scores to any depth.
                const Real<C> e =
                    visible(kAdditive ? power_of_2(x) : bounded_power_of_2(x), Real<C>{});
                sum += e;
                store(weight + j, e);
              });
        } else {
          const Real<C> lowest = broadcast(kLowest<C>);
          Real<C> most = lowest;
          decay.for_keys(r, keys.low, high, n, p.causal, p.mask_self,
                         [&](int64_t j, Real<C> d, Real<C>, auto visible)
                             __attribute__((always_inline)) {
                               const Real<C> s = visible(decay.score(load(gr + j), d), lowest);
                               most = larger(s, most);
                               store(weight + j, s);
                             });
          shift = largest_lane<C>(most);
          const Real<C> m = broadcast(shift);
          decay.for_keys(
              r, keys.low, high, n, p.causal, p.mask_self,
              [&](int64_t j, Real<C>, Real<C>, auto visible) __attribute__((always_inline)) {
                const Real<C> e = visible(power_of_2(load(weight + j) - m), Real<C>{});
                sum += e;
                store(weight + j, e);
              });
        }
        const C of_far = num_far ? power_of_2_of(-shift) : C(0);
        shifts[r] = shift;
        sums[r] = sum_lanes<C>(sum) + of_far * static_cast<C>(num_far);
        inverse_sum[r] = sums[r] == 0 ? C(0) : 1 / sums[r];
        far_weight[r] = of_far * inverse_sum[r];
        if (p.dropout > 0) drop<C>(p, first + row + r, h, keys.low, high, weight, nullptr);
      }
      // Apart from the loop above, whose vectors would not survive the call of a function.
      for (int64_t r = 0; r < block.rows; r++)
        static_cast<C*>(p.log_sum)[(first + row + r) * num_heads + h] =
            sums[r] == 0
                ? C(0)
                : static_cast<C>(kLn2 * (shifts[r] + __builtin_log2(static_cast<double>(sums[r]))));

      const Panels<C> b = {values[h].data + keys.low * values[h].row_stride, values[h].row_stride,
                           values[h].panel_stride};
      block.for_strips([&](int64_t r, int64_t rows) {
        const int64_t depth = minimum(minimum(keys.high, n), block.end_of(r)) - keys.low;
        const auto product =
            p.sum_heads && h > 0 ? multiply<C, false, true> : multiply<C, false, false>;
        product(rows, sizes.value, depth, {weights + r * stride + keys.low, stride, 1}, b,
                output + r * sizes.value, sizes.value, inverse_sum + r);
      });
      if (num_far) far.add(h, keys, block, far_weight, output);
      if (!p.sum_heads || h + 1 == num_heads)
        write_rows<C>(p.dtype, {output, sizes.value}, C(1), p.output, p.sum_heads ? 0 : h,
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
  const int64_t room = usable_in_place<C>(p.dtype, p.value_size) ? 0 : n * sizes.value;
  Rows<const C>* value = arena.take<Rows<const C>>(num_heads);
  Rows<const C>* upstream = arena.take<Rows<const C>>(sizes.output_heads);
  Rows<C>* grad_value = arena.take<Rows<C>>(num_heads);
  C* value_room = arena.take<C>(num_heads * room);
  C* upstream_room = arena.take<C>(sizes.output_heads * room);
  C* grad_value_room = arena.take<C>(num_heads * room);
  C* value_panels = arena.take<C>(num_heads * padded * sizes.value);
  C* grad_query = arena.take<C>(score_heads * n * sizes.query);
  C* grad_key = arena.take<C>(p.key_is_query ? 0 : score_heads * n * sizes.query);
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
    value[h] = read_rows<C>(p.dtype, p.value, h, first, n, p.value_size, value_room + h * room);
    pack_transposed(value[h].data, value[h].stride, n, sizes.value, C(1),
                    value_panels + h * padded * sizes.value);
    grad_value[h] =
        rows_to_write<C>(p.dtype, p.grad_value, h, first, p.value_size, grad_value_room + h * room);
  }
  for (int64_t j = 0; j < n; j++)
    for (int64_t h = 0; h < num_heads; h++) clear(grad_value[h][j], sizes.value);
  for (int64_t h = 0; h < sizes.output_heads; h++)
    upstream[h] =
        read_rows<C>(p.dtype, p.grad_output, h, first, n, p.value_size, upstream_room + h * room);
  clear(grad_query, score_heads * n * sizes.query);
  if (!p.key_is_query) clear(grad_key, score_heads * n * sizes.query);
  double* grad_rate = p.grad_decay_rate + task.sequence * num_heads;
  for (int64_t h = 0; h < num_heads; h++) grad_rate[h] = 0;
  if (far_field && !kAdditive && scores.bound < C(kBoundedScore) && line.sorted && p.dropout == 0 &&
      n >= kFarFieldLength) {
    far.enable(scores.bound, value);
    far.clear_grads();
  }

  const int64_t step = block_rows(n);
  // Keys' heads one by one where each has its own scores, else all in one pass.
  for (int64_t score_head = 0; score_head < score_heads; score_head++) {
    const int64_t first_head = score_head, last_head = p.shared_scores ? num_heads : score_head + 1;
    const Rows<const C> query = scores.query[score_head], key = scores.key[score_head];
    C* head_grad_query = grad_query + score_head * n * sizes.query;
    C* head_grad_key = p.key_is_query ? head_grad_query : grad_key + score_head * n * sizes.query;
    if (whole) clear(grad_g, padded * stride);
    if (symmetric) scores.multiply_symmetric(score_head, all_g, stride);
    far.restart();
    for (int64_t row = 0; row < n; row += step) {
      const Block<C> block = Block<C>::of(row, minimum(step, n - row), n, p.causal, line.sorted);
      const Keys all = far.near(block, p, line);
      decay.start_block(block, line, all.low);
      C* g = symmetric ? all_g + row * stride : all_g;
      if (!symmetric) scores.multiply_block(score_head, block, all, g, stride);
      C* dg = whole ? grad_g + row * stride : grad_g;
      if (!whole)
        for (int64_t r = 0; r < block.rows; r++)
          clear(dg + r * stride + all.low, all.high - all.low);
      for (int64_t h = first_head; h < last_head; h++) {
        const Keys keys = {far.low[h], far.high[h]};
        const int64_t num_keys = p.causal ? block.first + block.rows : n;
        const int64_t num_far = keys.low + maximum(num_keys - keys.high, 0);
        const Rows<const C> u = {upstream[p.sum_heads ? 0 : h][row],
                                 upstream[p.sum_heads ? 0 : h].stride};
        decay.start_head(p, h, line, keys.low, keys.high);
        const Panels<C> v = {value_panels + (h * padded + keys.low) * sizes.value, kPanel<C>,
                             kPanel<C> * sizes.value};
        block.for_strips([&](int64_t r, int64_t rows) {
          multiply<C, false, false>(rows, minimum(keys.high, block.end_of(r)) - keys.low,
                                    sizes.value, Left<C>{u[r], u.stride, 1}, v,
                                    grad_weights + r * stride + keys.low, stride);
        });
        double rate_sum = 0;
        for (int64_t r = 0; r < block.rows; r++) {
          const int64_t token = first + row + r;
          const C* gr = g + r * stride;
          C* weight = weights + r * stride;
          C* c = grad_weights + r * stride;
          C* dgr = dg + r * stride;
          const int64_t high = minimum(keys.high, block.end_of(r));
          if (p.dropout > 0) drop<C>(p, token, h, keys.low, high, c, mask);
          C shift, of_far, total, mean, most;
          // Weights from scores, which are g and the decay or, once rounded, where weights will be.
          const auto weigh = [&](auto score) __attribute__((always_inline)) {
            const Real<C> m = broadcast(shift);
            Real<C> sum = Real<C>{}, delta = Real<C>{}, top = Real<C>{};
            decay.for_keys(
                r, keys.low, high, n, p.causal, p.mask_self,
                [&](int64_t j, Real<C> d, Real<C>, auto visible) __attribute__((always_inline)) {
                  const Real<C> e = visible(power_of_2(score(j, d) - m), Real<C>{});
                  sum += e;
                  top = larger(e, top);
                  delta += e * load(c + j);
                  store(weight + j, e);
                  if (!kAdditive) store(factors + j, d);
                });
            of_far = num_far ? power_of_2_of(-shift) : C(0);
            total = sum_lanes<C>(sum) + of_far * static_cast<C>(num_far);
            mean = sum_lanes<C>(delta);
            most = largest_lane<C>(top);
          };
          // exp(s - log_sum) carries the rounding of log_sum; dividing by the sum takes it out. Two
          // kinds of rows need their largest score instead: those whose scores are so large that
          // exp of the rounding may overflow, and those with nearly all weight on one key, which
          // must be 1 exactly lest c - mean be the rounding of c.
          const C bound = scores.query_norm[score_head * n + row + r] *
                          scores.key_norm[score_head * n + n - 1];
          shift = static_cast<C>(kLog2E) * static_cast<const C*>(p.log_sum)[token * num_heads + h];
          bool good_enough =
              bound < kRoundedScore<C> && shift < kRoundedScore<C> && shift > -kRoundedScore<C>;
          if (good_enough) {
            weigh([&](int64_t j, Real<C> d) __attribute__((always_inline)) {
              return decay.score(load(gr + j), d);
            });
            good_enough = most < kNearlyAll<C> * total;
          }
          if (!good_enough) {
            const Real<C> lowest = broadcast(kLowest<C>);
            Real<C> top = lowest;
            decay.for_keys(
                r, keys.low, high, n, p.causal, p.mask_self,
                [&](int64_t j, Real<C> d, Real<C>, auto visible) __attribute__((always_inline)) {
                  const Real<C> s = visible(decay.score(load(gr + j), d), lowest);
                  top = larger(s, top);
                  store(weight + j, s);
                });
            shift = largest_lane<C>(top);
            weigh([&](int64_t j, Real<C>) __attribute__((always_inline)) {
              return load(weight + j);
            });
          }
          const C inverse = total == 0 ? C(0) : 1 / total;
          far_weight[r] = of_far * inverse;
          mean *= inverse;
          if (num_far) mean += far_weight[r] * far.dot(h, keys, block, u[r]);
          const Real<C> scale = broadcast(inverse), shared = broadcast(mean);
          Real<C> rate = Real<C>{};
          decay.for_keys(r, keys.low, high, n, p.causal, p.mask_self,
                         [&](int64_t j, Real<C>, Real<C> elapsed, auto visible)
                             __attribute__((always_inline)) {
                               const Real<C> a = load(weight + j) * scale;
                               Real<C> ds = visible(a * (load(c + j) - shared), Real<C>{});
                               store(weight + j, a);
                               if (!kAdditive) ds *= load(factors + j);
                               rate += (kAdditive ? ds : ds * load(gr + j)) * elapsed;
                               store(dgr + j, load(dgr + j) + ds);
                             });
          rate_sum += static_cast<double>(sum_lanes<C>(rate));
          if (p.dropout > 0)
            for (int64_t j = keys.low; j < high; j++) weight[j] *= mask[j];
        }
        grad_rate[h] -= kAdditive ? rate_sum : rate_sum * kLn2;
        // dv of `count` keys from j on, which only the rows from r on see.
        const auto add_grad_value = [&](int64_t j, int64_t count, int64_t r) {
          multiply<C, true, true>(
              count, sizes.value, block.rows - r, Left<C>{weights + r * stride + j, 1, stride},
              plain_rows(u[r], u.stride), grad_value[h][j], grad_value[h].stride);
        };
        add_grad_value(keys.low, (p.causal ? row : minimum(keys.high, n)) - keys.low, 0);
        if (p.causal)
          block.for_strips([&](int64_t r, int64_t rows) { add_grad_value(row + r, rows, r); });
        if (num_far) far.add_grad(h, keys, block, far_weight, u.data, u.stride);
      }
      if (!whole) {
        const int64_t count = minimum(all.high, n) - all.low;
        multiply<C, false, true>(block.rows, sizes.query, count, Left<C>{dg + all.low, stride, 1},
                                 plain_rows(key[all.low], key.stride),
                                 head_grad_query + row * sizes.query, sizes.query);
        multiply<C, true, true>(count, sizes.query, block.rows, Left<C>{dg + all.low, 1, stride},
                                plain_rows(query[row], query.stride),
                                head_grad_key + all.low * sizes.query, sizes.query);
      }
    }
    if (whole) {
      add_transpose(grad_g, round_up(n, kLanes<C>), stride);
      multiply<C, false, true>(n, sizes.query, n, Left<C>{grad_g, stride, 1},
                               plain_rows(query.data, query.stride), head_grad_query, sizes.query);
    }
  }
  far.spread_grads(grad_value);
  for (int64_t h = 0; h < score_heads; h++) {
    const C scale = static_cast<C>(p.scale);
    write_rows<C>(p.dtype, {grad_query + h * n * sizes.query, sizes.query}, scale, p.grad_query, h,
                  first, n, p.query_size);
    if (!p.key_is_query)
      write_rows<C>(p.dtype, {grad_key + h * n * sizes.query, sizes.query}, scale, p.grad_key, h,
                    first, n, p.query_size);
  }
  for (int64_t h = 0; h < num_heads; h++)
    write_rows<C>(p.dtype, grad_value[h], C(1), p.grad_value, h, first, n, p.value_size);
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
    return (additive ? backward_sequence<double, true>
                     : backward_sequence<double, false>)(p, task, scratch, far_field);
  return (additive ? backward_sequence<float, true>
                   : backward_sequence<float, false>)(p, task, scratch, far_field);
}

static int64_t scratch_bytes(const HawkesForwardParams& p, int64_t length, bool backward) {
  HawkesBackwardParams q{};
  static_cast<HawkesForwardParams&>(q) = p;
  const auto bytes = [&](int64_t n) {
    return backward ? backward_any(q, {0, 0, n}, nullptr, false)
                    : forward_any(p, {0, 0, n}, nullptr, false);
  };
  // A shorter sequence may need more, since it keeps all pairs.
  return maximum(bytes(length), bytes(minimum(length, kSymmetricLength)));
}

static void forward(const HawkesForwardParams& p, Task task, char* scratch, bool far_field) {
  forward_any(p, task, scratch, far_field);
}

static void backward(const HawkesBackwardParams& p, Task task, char* scratch, bool far_field) {
  backward_any(p, task, scratch, far_field);
}
