// Runs the CUDA launchers of csrc/cuda on the CPU (cuda_on_cpu/) and compares the output and every
// gradient with loops in float64 that spell out the formula of csrc/hawkes_attention.h.
//
//   test_hawkes_attention all|few|CASE SCHEDULE...
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/cuda/hawkes_attention_cuda.h"
#include "../../csrc/cuda/math.cuh"

using namespace emorec;

namespace {

enum class Nan { none, query, grad_output };

constexpr int kNanToken = 70;

struct Options {
  bool few = false;  // also where a sanitizer makes everything slow
  Nan nan = Nan::none;  // what is NaN at kNanToken
  Dtype dtype = Dtype::float32;
  bool tf32 = false;
  Decay decay = Decay::multiplicative;
  bool causal = true;
  bool mask_self = false;
  bool key_is_query = true;
  bool shared_scores = true;
  bool sum_heads = false;
  double dropout = 0.0;
  double time_unit = 1.0;  // mean gap between events
  bool integer_times = false;
  bool sorted = true;
  double window = 8.0;  // of head 0; later heads see further
  double rate = 0.3;    // of head 0; later heads forget more slowly
  double score = 1.0;   // size of scores
  int spare = 0;        // unused elements between tokens
  int64_t first_position = 3;
};

struct Case {
  const char* name;
  std::vector<int> lengths;
  int heads, query_size, value_size;
  Options options;
};

const double kInf = std::numeric_limits<double>::infinity();

const std::vector<Case> kCases = {
    {"few-tokens", {0, 1, 2, 3, 0, 17}, 2, 8, 8, {.few = true}},
    {"ragged", {63, 64, 65, 1, 129}, 2, 20, 12, {}},
    {"separate-key", {70}, 1, 32, 32, {.few = true, .causal = false, .key_is_query = false}},
    {"own-scores", {40, 65}, 3, 16, 24,
     {.causal = false, .key_is_query = false, .shared_scores = false, .spare = 3}},
    {"own-scores-q=k", {66}, 2, 16, 16, {.shared_scores = false, .spare = 4}},
    {"sum-heads", {67, 5}, 3, 32, 32, {.few = true, .sum_heads = true}},
    {"additive", {130}, 2, 64, 64, {.decay = Decay::additive}},
    {"additive-full", {66}, 2, 32, 32,
     {.few = true, .decay = Decay::additive, .causal = false, .key_is_query = false}},
    {"mask-self", {1, 2, 66}, 2, 32, 32, {.few = true, .mask_self = true}},
    {"mask-self-full", {1, 2, 66}, 1, 8, 8, {.causal = false, .mask_self = true}},
    {"dropout", {5, 70}, 2, 32, 32, {.few = true, .causal = false, .dropout = 0.4}},
    {"dropout-sum", {70}, 2, 32, 32, {.sum_heads = true, .dropout = 0.2}},
    {"gaps-100-years", {70}, 2, 32, 32, {.time_unit = 3.15e9}},
    {"gaps-1-ms", {70}, 1, 32, 32, {.decay = Decay::additive, .time_unit = 1e-3, .rate = 30.0}},
    {"integer-times", {33, 64}, 2, 32, 32, {.integer_times = true}},
    {"unsorted-times", {68}, 2, 32, 32, {.causal = false, .sorted = false}},
    {"unsorted-integer-times", {68}, 2, 32, 32,
     {.causal = false, .integer_times = true, .sorted = false}},
    {"equal-times", {68}, 2, 32, 32, {.time_unit = 0.0}},
    {"no-decay", {68}, 1, 32, 32, {.window = kInf, .rate = 0.0}},
    {"huge-scores", {68}, 1, 32, 32, {.key_is_query = false, .score = 100.0}},
    {"huge-exponents-mask-self", {68}, 2, 32, 32,
     {.decay = Decay::additive, .mask_self = true, .window = 1e-12}},
    // Two keys share the weight, at scores of -3001: log_sum is off by up to 1e-4.
    {"rounded-log-sum", {66}, 2, 8, 8,
     {.few = true, .decay = Decay::additive, .causal = false, .mask_self = true,
      .key_is_query = false, .window = 1.0 / 3001, .rate = 0.0, .score = 0.0}},
    {"positions-wrap", {66}, 2, 32, 32, {.first_position = 2147483600}},
    {"nan-query", {130}, 2, 32, 32, {.nan = Nan::query, .key_is_query = false}},
    {"nan-upstream", {130}, 2, 32, 32, {.nan = Nan::grad_output, .key_is_query = false}},
    {"bf16-nan-upstream", {130}, 1, 64, 64,
     {.nan = Nan::grad_output, .dtype = Dtype::bfloat16, .key_is_query = false}},
    {"size-64-not-aligned", {66}, 1, 50, 37, {}},
    {"size-128", {66}, 1, 128, 100, {}},
    {"size-256", {34}, 1, 256, 200, {.causal = false}},
    {"value-wider", {34}, 2, 8, 130, {}},
    {"bf16-size-64", {1, 64, 129}, 2, 64, 64, {.dtype = Dtype::bfloat16}},
    {"bf16", {3, 66}, 1, 32, 32, {.few = true, .dtype = Dtype::bfloat16}},
    {"bf16-size-32-not-aligned", {70}, 2, 19, 7,
     {.dtype = Dtype::bfloat16, .causal = false, .sum_heads = true}},
    {"bf16-size-128", {100}, 1, 128, 128,
     {.dtype = Dtype::bfloat16, .key_is_query = false, .dropout = 0.1}},
    {"bf16-size-256", {66}, 1, 200, 256, {.dtype = Dtype::bfloat16}},
    {"tf32", {3, 66}, 1, 32, 32, {.few = true, .tf32 = true}},
    {"tf32-size-128", {66}, 1, 128, 104, {.tf32 = true, .causal = false}},
};

// Arrays [tokens, heads, size] of the kernel's type, with room between tokens, and their values.
struct Array {
  int tokens, heads, size, stride;
  bool half;
  std::vector<float> floats;
  std::vector<uint16_t> halves;

  Array(int tokens_, int heads_, int size_, int spare, bool half_)
      : tokens(tokens_), heads(heads_), size(size_), stride(heads_ * size_ + spare), half(half_) {
    const size_t n = tokens ? static_cast<size_t>(tokens - 1) * stride + heads * size : 0;
    if (half)
      halves.assign(n, 0x7fff);
    else
      floats.assign(n, NAN);
  }
  size_t at(int i, int h, int d) const {
    return static_cast<size_t>(i) * stride + (heads == 1 ? 0 : h) * size + d;
  }
  double get(int i, int h, int d) const {
    return half ? std::bit_cast<float>(uint32_t{halves[at(i, h, d)]} << 16) : floats[at(i, h, d)];
  }
  void set(int i, int h, int d, double x) {
    if (half)
      halves[at(i, h, d)] = Bf16::from_float(static_cast<float>(x)).bits;
    else
      floats[at(i, h, d)] = static_cast<float>(x);
  }
  void randomize(std::mt19937& random, double size_of_elements) {
    std::normal_distribution<double> normal(0.0, size_of_elements);
    for (int i = 0; i < tokens; ++i)
      for (int h = 0; h < heads; ++h)
        for (int d = 0; d < size; ++d) set(i, h, d, normal(random));
  }
  void* data() { return half ? static_cast<void*>(halves.data()) : floats.data(); }
  Vectors vectors() { return {data(), stride, heads == 1 ? 0 : size}; }
  ConstVectors const_vectors() { return {data(), stride, heads == 1 ? 0 : size}; }
};

// Whether a row holds NaN at kNanToken, and before it only if `before`, and not after it.
bool confined(const Array& array, bool before) {
  bool good = false;
  for (int i = 0; i < array.tokens; ++i)
    for (int h = 0; h < array.heads; ++h)
      for (int d = 0; d < array.size; ++d) {
        const bool nan = std::isnan(array.get(i, h, d));
        if (i == kNanToken) good = good || nan;
        if (nan && (i > kNanToken || (i < kNanToken && !before))) return false;
      }
  return good;
}

// Same shape, in float64.
struct Exact {
  const Array& like;
  std::vector<double> values;

  explicit Exact(const Array& array)
      : like(array), values(static_cast<size_t>(array.tokens) * array.heads * array.size) {}
  double& operator()(int i, int h, int d) {
    const int head = like.heads == 1 ? 0 : h;
    return values[(static_cast<size_t>(i) * like.heads + head) * like.size + d];
  }
};

// Largest error over the largest value, or over the largest sum of terms' sizes where terms cancel;
// NaN counts as infinite.
double error(const Array& got, Exact& want, double largest = 1e-3) {
  double worst = 0.0;
  for (int i = 0; i < got.tokens; ++i)
    for (int h = 0; h < got.heads; ++h)
      for (int d = 0; d < got.size; ++d) {
        const double e = std::abs(got.get(i, h, d) - want(i, h, d));
        worst = std::max(worst, std::isnan(e) ? kInf : e);
        largest = std::max(largest, std::abs(want(i, h, d)));
      }
  return worst / largest;
}

bool run(const Case& c) {
  const Options& o = c.options;
  std::mt19937 random(1);
  const int num_sequences = static_cast<int>(c.lengths.size());
  std::vector<int64_t> starts = {0};
  for (int n : c.lengths) starts.push_back(starts.back() + n);
  const int T = static_cast<int>(starts.back()), H = c.heads, D = c.query_size, Dv = c.value_size;
  const bool half = o.dtype == Dtype::bfloat16;
  const int score_heads = o.shared_scores ? 1 : H, output_heads = o.sum_heads ? 1 : H;

  Array query(T, score_heads, D, o.spare, half), key(T, score_heads, D, o.spare, half);
  Array value(T, H, Dv, o.spare, half), grad_output(T, output_heads, Dv, o.spare, half);
  query.randomize(random, std::sqrt(o.score));
  key.randomize(random, std::sqrt(o.score));
  value.randomize(random, 1.0);
  grad_output.randomize(random, 1.0);
  if (o.key_is_query) key = query;
  if (o.nan != Nan::none) (o.nan == Nan::query ? query : grad_output).set(kNanToken, 0, 0, NAN);
  std::vector<double> time(T), rate(H), inverse_window(H);
  std::vector<int64_t> time_int64(T);
  std::vector<int32_t> position(T);
  std::exponential_distribution<double> gap(1.0);
  for (int b = 0; b < num_sequences; ++b) {
    double now = 1.7e9;
    for (int64_t i = starts[b]; i < starts[b + 1]; ++i) {
      now += o.time_unit * (gap(random) < 0.5 ? 0.0 : gap(random));
      time[i] = o.sorted ? now : 1.7e9 + o.time_unit * 10.0 * gap(random);
      time_int64[i] = static_cast<int64_t>(time[i]);
      if (o.integer_times) time[i] = static_cast<double>(time_int64[i]);
      position[i] = static_cast<int32_t>(i - starts[b] + o.first_position);  // modulo 2^32
    }
  }
  for (int h = 0; h < H; ++h) {
    rate[h] = static_cast<float>(o.rate / (1 + h));
    inverse_window[h] = static_cast<float>(1.0 / (o.window * (1 + h)));
  }
  const int64_t seed = 1234567;
  const double scale = static_cast<float>(1.0 / std::sqrt(D));

  Array output(T, output_heads, Dv, o.spare, half), grad_query(T, score_heads, D, o.spare, half);
  Array grad_key(T, score_heads, D, o.spare, half), grad_value(T, H, Dv, o.spare, half);
  std::vector<float> log_sum(T * H, NAN), inverse_sum(T * H, NAN), delta(T * H, NAN),
      grad_rate_rows(T * H, NAN);
  std::vector<double> grad_rate(num_sequences * H, NAN);
  HawkesBackwardParams p = {};
  p.num_tokens = T;
  p.num_sequences = num_sequences;
  p.num_heads = H;
  p.query_size = D;
  p.value_size = Dv;
  p.dtype = o.dtype;
  p.query = query.const_vectors();
  p.key = o.key_is_query ? p.query : key.const_vectors();
  p.value = value.const_vectors();
  p.time_int64 = o.integer_times ? time_int64.data() : nullptr;
  p.time_float64 = o.integer_times ? nullptr : time.data();
  p.position = position.data();
  p.cu_seqlens = starts.data();
  p.decay_rate = rate.data();
  p.inverse_window = inverse_window.data();
  p.seed = o.dropout > 0 ? &seed : nullptr;
  p.decay = o.decay;
  p.key_is_query = o.key_is_query;
  p.shared_scores = o.shared_scores;
  p.causal = o.causal;
  p.mask_self = o.mask_self;
  p.sum_heads = o.sum_heads;
  p.scale = scale;
  p.dropout = o.dropout;
  p.output = output.vectors();
  p.log_sum = log_sum.data();
  p.grad_output = grad_output.const_vectors();
  p.grad_query = grad_query.vectors();
  p.grad_key = o.key_is_query ? Vectors{} : grad_key.vectors();
  p.grad_value = grad_value.vectors();
  p.grad_decay_rate = grad_rate.data();
  if (launch_hawkes_attention_fwd(p, o.tf32, nullptr) != cudaSuccess ||
      launch_hawkes_attention_bwd(p, {inverse_sum.data(), delta.data(), grad_rate_rows.data()},
                                  o.tf32, nullptr) != cudaSuccess) {
    std::printf("%-26s launch refused\n", c.name);
    return false;
  }

  if (o.nan != Nan::none) {
    const bool good = confined(grad_query, false) &&
                      (o.nan == Nan::query ? confined(output, false) : confined(grad_key, true));
    std::printf("%-26s %s NaN of one token\n", c.name, good ? "ok  " : "FAIL");
    return good;
  }

  // Sums have one order, whatever the order of threads and blocks.
  static std::map<std::string, std::vector<double>> first_results;
  std::vector<double> results(grad_rate);
  for (const Array* array : {&output, &grad_query, &grad_value})
    for (int i = 0; i < T; ++i)
      for (int h = 0; h < array->heads; ++h)
        for (int d = 0; d < array->size; ++d) results.push_back(array->get(i, h, d));
  if (first_results.emplace(c.name, results).first->second != results) {
    std::printf("%-26s FAIL results depend on the schedule\n", c.name);
    return false;
  }

  Exact want_output(output), want_query(query), want_key(key), want_value(value);
  std::vector<double> want_rate(num_sequences * H, 0.0);
  double largest_rate = 1e-3, largest_query = 1e-3, log_sum_error = 0.0;
  const uint32_t threshold = dropout_threshold(o.dropout);
  for (int b = 0; b < num_sequences; ++b)
    for (int h = 0; h < H; ++h) {
      double size_of_terms = 0.0;
      const int start = static_cast<int>(starts[b]), n = c.lengths[b];
      for (int i = start; i < start + n; ++i) {
        std::vector<double> s(n, -kInf), w(n), elapsed(n), a(n, 0.0), m(n), grad(n);
        double maximum = -kInf, sum = 0.0;
        for (int k = 0; k < n; ++k) {
          const int j = start + k;
          if ((o.causal && j > i) || (o.mask_self && j == i)) continue;
          double dot = 0.0;
          for (int d = 0; d < D; ++d) dot += query.get(i, h, d) * key.get(j, h, d);
          elapsed[k] = std::max(0.0, time[i] - time[j]);
          const double x =
              rate[h] * elapsed[k] + std::abs(i - j) * inverse_window[h];
          w[k] = o.decay == Decay::multiplicative ? std::exp(-x) : 1.0;
          s[k] = o.decay == Decay::multiplicative ? scale * dot * w[k] : scale * dot - x;
          maximum = std::max(maximum, s[k]);
        }
        if (maximum > -kInf)
          for (int k = 0; k < n; ++k) sum += a[k] = std::exp(s[k] - maximum);
        const double want_log_sum = sum > 0 ? maximum + std::log(sum) : 0.0;
        log_sum_error =
            std::max(log_sum_error, std::abs(log_sum[i * H + h] - want_log_sum) /
                                        std::max(1.0, std::abs(want_log_sum)));
        double mean_grad = 0.0;
        const uint64_t row_key = dropout_row_key(seed, i, h);
        for (int k = 0; k < n; ++k) {
          const int j = start + k;
          if (sum > 0) a[k] /= sum;
          m[k] = dropout_bits(row_key, k) >= threshold ? 1.0 / (1.0 - o.dropout) : 0.0;
          for (int d = 0; d < Dv; ++d) {
            want_output(i, h, d) += a[k] * m[k] * value.get(j, h, d);
            want_value(j, h, d) += a[k] * m[k] * grad_output.get(i, h, d);
            grad[k] += m[k] * grad_output.get(i, h, d) * value.get(j, h, d);
          }
          mean_grad += a[k] * grad[k];
        }
        double size_of_query_terms = 0.0;
        for (int k = 0; k < n; ++k) {
          if (a[k] == 0.0) continue;
          const int j = start + k;
          const double grad_score = a[k] * (grad[k] - mean_grad);
          const double term =
              -grad_score * elapsed[k] * (o.decay == Decay::multiplicative ? s[k] : 1.0);
          want_rate[b * H + h] += term;
          size_of_terms += std::abs(term);
          size_of_query_terms +=
              scale * a[k] * (std::abs(grad[k]) + std::abs(mean_grad)) * w[k] * std::sqrt(o.score);
          for (int d = 0; d < D; ++d) {
            want_query(i, h, d) += scale * grad_score * w[k] * key.get(j, h, d);
            (o.key_is_query ? want_query : want_key)(j, h, d) +=
                scale * grad_score * w[k] * query.get(i, h, d);
          }
        }
        largest_query = std::max(largest_query, size_of_query_terms);
      }
      largest_rate = std::max(largest_rate, size_of_terms);
    }

  double rate_error = 0.0;
  for (int k = 0; k < num_sequences * H; ++k) {
    const double e = std::abs(grad_rate[k] - want_rate[k]) / largest_rate;
    rate_error = std::max(rate_error, std::isnan(e) ? kInf : e);
  }
  const double errors[] = {error(output, want_output),
                           std::isnan(log_sum_error) ? kInf : log_sum_error,
                           error(grad_query, want_query, largest_query),
                           o.key_is_query ? 0.0 : error(grad_key, want_key, largest_query),
                           error(grad_value, want_value), rate_error};
  // Rounding of an operand: 2^-24, 2^-11, 2^-9; a dozen of them where sums cancel, and as many more
  // as scores are larger than 1.
  const double unit = half ? 0x1p-9 : o.tf32 ? 0x1p-11 : 0x1p-24;
  const double tolerance = unit * 16.0 * std::max(1.0, o.score);
  bool good = true;
  for (double e : errors) good = good && e <= tolerance;
  std::printf("%-26s %s output %.1e log_sum %.1e query %.1e key %.1e value %.1e rate %.1e (%.1e)\n",
              c.name, good ? "ok  " : "FAIL", errors[0], errors[1], errors[2], errors[3], errors[4],
              errors[5], tolerance);
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  int failures = 0, runs = 0;
  for (int i = 2; i < argc; ++i) {
    cuda_on_cpu::schedule = std::atoi(argv[i]);
    for (const Case& c : kCases) {
      const std::string which = argv[1];
      if (which != "all" && which != c.name && !(which == "few" && c.options.few)) continue;
      failures += !run(c);
      ++runs;
    }
  }
  std::printf("%d of %d runs failed\n", failures, runs);
  return failures || runs == 0;
}
