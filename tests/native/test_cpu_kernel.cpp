// Runs the CPU kernels without PyTorch, for processors that are not at hand. Attention: the output
// against the formula of csrc/hawkes_attention.h, gradients against differences of the output,
// float against double. Loss, attention over a graph, update of nodes and linear maps: against
// the formulas of csrc/softmax_loss.h, csrc/graph_attention.h, csrc/node_update.h and
// csrc/linear.h.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "../../csrc/cpu/kernels.h"

using namespace emorec;

namespace {

constexpr int kTokens = 75, kHeads = 2, kSize = 20;
constexpr double kScale = 0.2;
const double kRate[kHeads] = {0.05, 0.4}, kInverseWindow[kHeads] = {0.1, 0.02};

template <typename C>
std::vector<C> converted(const std::vector<double>& numbers) {
  return std::vector<C>(numbers.begin(), numbers.end());
}

struct Results {
  std::vector<double> output, grad_query, grad_value, grad_rate;
};

template <typename C>
Results run(Dtype dtype, const std::vector<double>& query, const std::vector<double>& value,
            const std::vector<double>& time, const std::vector<double>& rate,
            const std::vector<double>& upstream, bool causal,
            const double* inverse_window = kInverseWindow, bool mask_self = false) {
  std::vector<C> q = converted<C>(query), v = converted<C>(value), u = converted<C>(upstream);
  std::vector<C> output(v.size()), log_sum(kTokens * kHeads), grad_q(q.size()), grad_v(v.size());
  std::vector<double> grad_rate(kHeads);
  std::vector<int32_t> position(kTokens);
  const int64_t first = 2147483600;  // so that positions pass the end of int32
  for (int i = 0; i < kTokens; i++) position[i] = static_cast<int32_t>(first + i);
  const int64_t cu_seqlens[] = {0, kTokens};
  HawkesBackwardParams p{};
  p.num_tokens = kTokens, p.num_sequences = 1, p.num_heads = kHeads;
  p.query_size = p.value_size = kSize;
  p.dtype = dtype;
  p.query = p.key = {q.data(), kSize, 0};
  p.value = {v.data(), kHeads * kSize, kSize};
  p.time_float64 = time.data(), p.position = position.data(), p.cu_seqlens = cu_seqlens;
  p.decay_rate = rate.data(), p.inverse_window = inverse_window;
  p.key_is_query = p.shared_scores = true;
  p.causal = causal;
  p.mask_self = mask_self;
  p.decay = mask_self ? Decay::additive : Decay::multiplicative;
  p.scale = kScale;
  p.output = {output.data(), kHeads * kSize, kSize};
  p.log_sum = log_sum.data();
  p.grad_output = {u.data(), kHeads * kSize, kSize};
  p.grad_query = {grad_q.data(), kSize, 0};
  p.grad_value = {grad_v.data(), kHeads * kSize, kSize};
  p.grad_decay_rate = grad_rate.data();
  const Kernels& kernels = kBaselineKernels;
  const auto scratch = [&](bool backward) {
    const int64_t bytes = kernels.scratch_bytes(p, kTokens, backward);
    return static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
  };
  char *forward = scratch(false), *backward = scratch(true);
  kernels.forward(p, {0, 0, kTokens}, forward, true);
  kernels.backward(p, {0, 0, kTokens}, backward, true);
  std::free(forward);
  std::free(backward);
  const auto wide = [](const std::vector<C>& x) { return std::vector<double>(x.begin(), x.end()); };
  return {wide(output), wide(grad_q), wide(grad_v), grad_rate};
}

std::vector<double> formula(const std::vector<double>& query, const std::vector<double>& value,
                            const std::vector<double>& time, bool causal) {
  std::vector<double> output(value.size());
  for (int h = 0; h < kHeads; h++)
    for (int i = 0; i < kTokens; i++) {
      std::vector<double> weight(kTokens);
      double sum = 0;
      for (int j = 0; j < (causal ? i + 1 : kTokens); j++) {
        double g = 0;
        for (int d = 0; d < kSize; d++) g += kScale * query[i * kSize + d] * query[j * kSize + d];
        const double x =
            kRate[h] * std::fmax(0, time[i] - time[j]) + std::abs(i - j) * kInverseWindow[h];
        sum += weight[j] = std::exp(g * std::exp(-x));
      }
      for (int j = 0; j < kTokens; j++)
        for (int d = 0; d < kSize; d++)
          output[(i * kHeads + h) * kSize + d] +=
              weight[j] / sum * value[(j * kHeads + h) * kSize + d];
    }
  return output;
}

bool close(const char* what, const std::vector<double>& got, const std::vector<double>& want,
           double tolerance) {
  double worst = 0, largest = 1;
  for (size_t i = 0; i < want.size(); i++) {
    worst = std::isnan(got[i]) ? INFINITY : std::fmax(worst, std::abs(got[i] - want[i]));
    largest = std::fmax(largest, std::abs(want[i]));
  }
  const bool good = worst <= tolerance * largest;
  std::printf("%-12s %.1e %s\n", what, worst / largest, good ? "ok" : "FAIL");
  return good;
}

constexpr int kStates = 41, kItems = 53, kTargets = 2;

struct Loss {
  std::vector<double> loss, grad_state, grad_items;
};

template <typename C>
Loss run_loss(Dtype dtype, const std::vector<double>& state, const std::vector<double>& items,
              const std::vector<int64_t>& target, const bool* wanted, int64_t num_wanted) {
  const std::vector<C> x = converted<C>(state), v = converted<C>(items);
  std::vector<C> grad_x(x.size()), grad_v(v.size());
  Loss result{std::vector<double>(kStates), {}, {}};
  SoftmaxLossParams p{};
  p.num_states = kStates, p.num_items = kItems, p.num_targets = kTargets, p.size = kSize;
  p.dtype = dtype, p.state = x.data(), p.items = v.data();
  p.target = target.data(), p.wanted = wanted, p.num_wanted = num_wanted;
  p.chunk = 30;
  p.loss = result.loss.data(), p.grad_state = grad_x.data(), p.grad_items = grad_v.data();
  const Kernels& kernels = kBaselineKernels;
  const SoftmaxSizes sizes = kernels.softmax_sizes(p);
  const auto memory = [](int64_t bytes) {
    return static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
  };
  char *shared = memory(sizes.shared_bytes), *scratch = memory(sizes.scratch_bytes);
  kernels.softmax_pack(p, shared);
  for (Range chunk{0, p.chunk}; chunk.first < kStates; chunk = {chunk.last, kStates}) {
    for (int64_t t = chunk.first; t < chunk.last; t += sizes.states)
      kernels.softmax_states(p, chunk, {t, std::min(t + sizes.states, chunk.last)}, shared,
                             scratch);
    for (int64_t i = 0; i < kItems; i += sizes.items)
      kernels.softmax_items(p, chunk, {i, std::min<int64_t>(i + sizes.items, kItems)}, shared,
                            scratch);
  }
  std::free(shared);
  std::free(scratch);
  result.grad_state.assign(grad_x.begin(), grad_x.end());
  result.grad_items.assign(grad_v.begin(), grad_v.end());
  return result;
}

Loss loss_formula(const std::vector<double>& state, const std::vector<double>& items,
                  const std::vector<int64_t>& target, const bool* wanted, int64_t num_wanted) {
  Loss result{std::vector<double>(kStates), std::vector<double>(state.size()),
              std::vector<double>(items.size())};
  for (int t = 0; t < kStates; t++) {
    std::vector<double> score(kItems);
    double sum = 0, count = 0;
    for (int i = 0; i < kItems; i++) {
      for (int d = 0; d < kSize; d++) score[i] += state[t * kSize + d] * items[i * kSize + d];
      sum += std::exp(score[i]);
    }
    for (int k = 0; k < kTargets; k++) {
      if (!wanted[t * kTargets + k]) continue;
      count++;
      result.loss[t] += std::log(sum) - score[target[t * kTargets + k]];
    }
    for (int i = 0; i < kItems; i++) {
      double error = count * std::exp(score[i]) / sum;
      for (int k = 0; k < kTargets; k++)
        error -= wanted[t * kTargets + k] && target[t * kTargets + k] == i;
      for (int d = 0; d < kSize; d++) {
        result.grad_state[t * kSize + d] += error / num_wanted * items[i * kSize + d];
        result.grad_items[i * kSize + d] += error / num_wanted * state[t * kSize + d];
      }
    }
  }
  return result;
}

constexpr int kSources = 70, kGraphTargets = 3, kEdges = 210, kGraphHeads = 5, kHeadSize = 6;
constexpr double kSlope = 0.2;

// Every target has every source, in both orders.
struct Attended {
  std::vector<double> output, grad_x, grad_left, grad_right;
};

template <typename C>
Attended run_graph(Dtype dtype, const std::vector<double>& values, const std::vector<double>& left,
                   const std::vector<double>& right, const std::vector<double>& upstream) {
  const std::vector<C> x = converted<C>(values), l = converted<C>(left), r = converted<C>(right),
                       g = converted<C>(upstream);
  std::vector<C> output(g.size()), above(g.size()), totals(3 * r.size()), grad_x(x.size()),
      grad_l(l.size()), grad_r(r.size());
  std::vector<int32_t> offsets, source, source_offsets, target;
  for (int v = 0; v <= kGraphTargets; v++) offsets.push_back(v * kSources);
  for (int u = 0; u <= kSources; u++) source_offsets.push_back(u * kGraphTargets);
  for (int e = 0; e < kEdges; e++)
    source.push_back(e % kSources), target.push_back(e % kGraphTargets);
  const auto fill = [&](GraphAttentionParams& p) {
    p.num_sources = kSources, p.num_targets = kGraphTargets;
    p.num_heads = kGraphHeads, p.size = kHeadSize;
    p.dtype = dtype, p.x = x.data(), p.left = l.data(), p.right = r.data(), p.slope = kSlope;
    p.output = output.data(), p.above = above.data(), p.totals = totals.data();
  };
  GraphAttentionForwardParams forward{};
  fill(forward);
  forward.offsets = offsets.data(), forward.source = source.data();
  GraphAttentionBackwardParams backward{};
  fill(backward);
  backward.source_offsets = source_offsets.data(), backward.target = target.data();
  backward.grad_output = g.data();
  backward.grad_x = grad_x.data(), backward.grad_left = grad_l.data();
  backward.grad_right = grad_r.data();
  const Kernels& kernels = kBaselineKernels;
  const auto memory = [](int64_t bytes) {
    return static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
  };
  for (bool back : {false, true}) {
    const GraphSizes sizes = kernels.graph_sizes(forward, back);
    char *shared = memory(sizes.shared_bytes), *scratch = memory(sizes.scratch_bytes);
    if (back) {
      kernels.graph_pack_gradient(backward, shared);
      kernels.graph_sources(backward, {0, 40}, shared, scratch);
      kernels.graph_sources(backward, {40, kSources}, shared, scratch);
    } else {
      kernels.graph_pack(forward, shared);
      kernels.graph_targets(forward, {0, kGraphTargets}, shared, scratch);
    }
    std::free(shared);
    std::free(scratch);
  }
  const auto wide = [](const std::vector<C>& n) { return std::vector<double>(n.begin(), n.end()); };
  return {wide(output), wide(grad_x), wide(grad_l), wide(grad_r)};
}

Attended graph_formula(const std::vector<double>& x, const std::vector<double>& left,
                       const std::vector<double>& right, const std::vector<double>& g) {
  Attended result{std::vector<double>(g.size()), std::vector<double>(x.size()),
                  std::vector<double>(left.size()), std::vector<double>(right.size())};
  for (int v = 0; v < kGraphTargets; v++)
    for (int h = 0; h < kGraphHeads; h++) {
      const int at = v * kGraphHeads + h;
      std::vector<double> weight(kSources), slope(kSources), dot(kSources);
      double sum = 0, mean_dot = 0;
      for (int u = 0; u < kSources; u++) {
        const double t = left[u * kGraphHeads + h] + right[at];
        slope[u] = t > 0 ? 1 : kSlope;
        sum += weight[u] = std::exp(slope[u] * t);
      }
      for (int u = 0; u < kSources; u++) {
        weight[u] /= sum;
        for (int d = 0; d < kHeadSize; d++) {
          const int from = (u * kGraphHeads + h) * kHeadSize + d, to = at * kHeadSize + d;
          result.output[to] += weight[u] * x[from];
          result.grad_x[from] += weight[u] * g[to];
          dot[u] += x[from] * g[to];
        }
        mean_dot += weight[u] * dot[u];
      }
      for (int u = 0; u < kSources; u++) {
        const double grad = weight[u] * slope[u] * (dot[u] - mean_dot);
        result.grad_left[u * kGraphHeads + h] += grad;
        result.grad_right[at] += grad;
      }
    }
  return result;
}

constexpr int kNodes = 67, kFirstKind = 60, kKinds = 2, kTerms = 2, kWidth = 32;
constexpr double kEpsilon = 1e-5;

// The arguments that the formula and the kernels share, and what comes out.
struct Update {
  std::vector<double> others, others_weight, own, own_weight, bias, gain, shift, scale;
  std::vector<int32_t> index;  // of the second term; the rows of the first follow one another
};

struct Updated {
  std::vector<double> output, grad_others, grad_own, sums;
};

template <typename C>
Updated run_update(Dtype dtype, const Update& in, const std::vector<double>& upstream) {
  const std::vector<C> others = converted<C>(in.others), u = converted<C>(in.others_weight),
                       own = converted<C>(in.own), w = converted<C>(in.own_weight),
                       bias = converted<C>(in.bias), gain = converted<C>(in.gain),
                       shift = converted<C>(in.shift), scale = converted<C>(in.scale),
                       g = converted<C>(upstream);
  std::vector<C> output(g.size()), activated(g.size()), statistics(2 * kNodes),
      grad_others(others.size()), grad_own(own.size());
  const auto fill = [&](NodeUpdateParams& p) {
    p.num_nodes = kNodes, p.num_kinds = kKinds, p.num_terms = kTerms, p.size = kWidth;
    p.dtype = dtype, p.others = others.data(), p.others_weight = u.data();
    p.own = own.data(), p.own_weight = w.data(), p.index = in.index.data();
    p.scale = scale.data(), p.gain = gain.data(), p.elu = true;
    p.activated = activated.data(), p.statistics = statistics.data();
  };
  NodeUpdateForwardParams forward{};
  fill(forward);
  forward.bias = bias.data(), forward.shift = shift.data(), forward.epsilon = kEpsilon;
  forward.output = output.data();
  NodeUpdateBackwardParams backward{};
  fill(backward);
  backward.grad_output = g.data(), backward.grad_own = grad_own.data();
  backward.grad_others = grad_others.data();
  const Kernels& kernels = kBaselineKernels;
  const NodeUpdateSizes sizes = kernels.update_sizes(forward);
  const auto memory = [](int64_t bytes) {
    return static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
  };
  char *shared = memory(sizes.shared_bytes), *scratch = memory(sizes.scratch_bytes);
  std::vector<C> sums(kKinds * sizes.sums);
  const Range ranges[kKinds] = {{0, kFirstKind}, {kFirstKind, kNodes}};
  kernels.update_pack(forward, shared);
  for (int k = 0; k < kKinds; k++) kernels.update_forward(forward, k, ranges[k], shared, scratch);
  for (int k = 0; k < kKinds; k++)
    kernels.update_backward(backward, k, ranges[k], sums.data() + k * sizes.sums, scratch);
  std::free(shared);
  std::free(scratch);
  const auto wide = [](const std::vector<C>& n) { return std::vector<double>(n.begin(), n.end()); };
  return {wide(output), wide(grad_others), wide(grad_own), wide(sums)};
}

Updated update_formula(const Update& in, const std::vector<double>& g) {
  constexpr int kSquare = kWidth * kWidth, kSums = (1 + kTerms) * kSquare + 3 * kWidth;
  Updated result{std::vector<double>(g.size()), std::vector<double>(in.others.size()),
                 std::vector<double>(in.own.size()), std::vector<double>(kKinds * kSums)};
  for (int v = 0; v < kNodes; v++) {
    const int kind = v >= kFirstKind;
    const double *x = &in.own[v * kWidth], *w = &in.own_weight[kind * kSquare];
    double* sums = &result.sums[kind * kSums];
    double a[kWidth], slope[kWidth], mean = 0, variance = 0;
    for (int o = 0; o < kWidth; o++) {
      double h = in.bias[kind * kWidth + o];
      for (int i = 0; i < kWidth; i++) h += w[o * kWidth + i] * x[i];
      for (int j = 0; j < kTerms; j++) {
        const int row = in.index[v * kTerms + j];
        for (int i = 0; row >= 0 && i < kWidth; i++)
          h += in.scale[j * kNodes + v] * in.others[row * kWidth + i] *
               in.others_weight[(kind * kTerms + j) * kSquare + o * kWidth + i];
      }
      a[o] = h > 0 ? h : std::expm1(h), slope[o] = h > 0 ? 1 : std::exp(h);
      mean += a[o] / kWidth;
    }
    for (double each : a) variance += (each - mean) * (each - mean) / kWidth;
    const double r = 1 / std::sqrt(variance + kEpsilon);
    double n[kWidth], q[kWidth], mean_q = 0, mean_qn = 0;
    for (int o = 0; o < kWidth; o++) {
      n[o] = (a[o] - mean) * r, q[o] = in.gain[o] * g[v * kWidth + o];
      result.output[v * kWidth + o] = in.gain[o] * n[o] + in.shift[o];
      mean_q += q[o] / kWidth, mean_qn += q[o] * n[o] / kWidth;
    }
    double *of_bias = sums + (1 + kTerms) * kSquare, *of_gain = of_bias + kWidth;
    for (int o = 0; o < kWidth; o++) {
      const double e = slope[o] * r * (q[o] - mean_q - n[o] * mean_qn);
      of_bias[o] += e, of_gain[o] += g[v * kWidth + o] * n[o];
      of_gain[kWidth + o] += g[v * kWidth + o];
      for (int i = 0; i < kWidth; i++) {
        result.grad_own[v * kWidth + i] += e * w[o * kWidth + i];
        sums[o * kWidth + i] += e * x[i];
      }
      for (int j = 0; j < kTerms; j++) {
        const int row = in.index[v * kTerms + j], at = (kind * kTerms + j) * kSquare + o * kWidth;
        const double scaled = in.scale[j * kNodes + v] * e;
        for (int i = 0; row >= 0 && i < kWidth; i++) {
          result.grad_others[row * kWidth + i] += scaled * in.others_weight[at + i];
          sums[(1 + j) * kSquare + o * kWidth + i] += scaled * in.others[row * kWidth + i];
        }
      }
    }
  }
  return result;
}

constexpr int kRows = 59, kInner = 48, kFirstActivated = 16, kThreshold = 80;

// The arguments of a map from kWidth to kInner after a layer norm and of one back before a
// residual, and what comes out of each: output, gradient of its input, sums.
struct Maps {
  std::vector<double> x, gain, shift, up, up_bias, down, down_bias;
  std::vector<uint8_t> inner_bytes, bytes;
};

struct Mapped {
  std::vector<double> output, grad, sums;
};

double factor_of(uint8_t byte) { return byte < kThreshold ? 0.0 : 256.0 / (256 - kThreshold); }

char* memory_of(int64_t bytes) {
  return static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
}

template <typename C>
Mapped run_norm_linear(Dtype dtype, const Maps& in, Activation activation,
                       const std::vector<double>& upstream) {
  const std::vector<C> x = converted<C>(in.x), gain = converted<C>(in.gain),
                       shift = converted<C>(in.shift), weight = converted<C>(in.up),
                       bias = converted<C>(in.up_bias), g = converted<C>(upstream);
  std::vector<C> output(kRows * kInner), grad_x(x.size());
  NormLinearBackwardParams p{};
  p.num_rows = kRows, p.size = kWidth, p.outputs = kInner, p.dtype = dtype;
  p.x = x.data(), p.gain = gain.data(), p.shift = shift.data();
  p.weight = weight.data(), p.bias = bias.data(), p.epsilon = kEpsilon;
  p.activation = activation, p.output = output.data();
  if (activation == Activation::relu)
    p.bytes = in.inner_bytes.data(), p.threshold = kThreshold;
  else
    p.first_activated = kFirstActivated;
  p.grad_output = g.data(), p.grad_x = grad_x.data();
  const Kernels& kernels = kBaselineKernels;
  const LinearSizes sizes = kernels.norm_linear_sizes(p);
  char *shared = memory_of(sizes.shared_bytes), *scratch = memory_of(sizes.scratch_bytes);
  std::vector<C> sums(sizes.sums);
  kernels.norm_linear_pack(p, shared);
  kernels.norm_linear_forward(p, {0, kRows}, shared, scratch);
  kernels.norm_linear_backward(p, {0, kRows}, sums.data(), scratch);
  std::free(shared);
  std::free(scratch);
  const auto wide = [](const std::vector<C>& n) { return std::vector<double>(n.begin(), n.end()); };
  return {wide(output), wide(grad_x), wide(sums)};
}

Mapped norm_linear_formula(const Maps& in, Activation activation, const std::vector<double>& g) {
  Mapped result{std::vector<double>(kRows * kInner), std::vector<double>(kRows * kWidth),
                std::vector<double>(kInner * (kWidth + 1) + 2 * kWidth)};
  double *of_weight = result.sums.data(), *of_bias = of_weight + kInner * kWidth,
         *of_gain = of_bias + kInner, *of_shift = of_gain + kWidth;
  for (int t = 0; t < kRows; t++) {
    const double* x = &in.x[t * kWidth];
    double mean = 0, variance = 0, n[kWidth], u[kWidth], grad_u[kWidth] = {};
    for (int d = 0; d < kWidth; d++) mean += x[d] / kWidth;
    for (int d = 0; d < kWidth; d++) variance += (x[d] - mean) * (x[d] - mean) / kWidth;
    const double r = 1 / std::sqrt(variance + kEpsilon);
    for (int d = 0; d < kWidth; d++)
      n[d] = (x[d] - mean) * r, u[d] = in.gain[d] * n[d] + in.shift[d];
    for (int j = 0; j < kInner; j++) {
      const int k = t * kInner + j;
      double a = in.up_bias[j], slope = 1;
      for (int d = 0; d < kWidth; d++) a += in.up[j * kWidth + d] * u[d];
      if (activation == Activation::relu) {
        slope = a > 0 ? factor_of(in.inner_bytes[k]) : 0;
        a *= slope;
      } else if (activation == Activation::elu && j >= kFirstActivated && a <= 0) {
        slope = std::exp(a), a = std::expm1(a);
      }
      result.output[k] = a;
      const double own = slope * g[k];
      of_bias[j] += own;
      for (int d = 0; d < kWidth; d++) {
        of_weight[j * kWidth + d] += own * u[d];
        grad_u[d] += own * in.up[j * kWidth + d];
      }
    }
    double mean_q = 0, mean_qn = 0;
    for (int d = 0; d < kWidth; d++) {
      of_gain[d] += n[d] * grad_u[d], of_shift[d] += grad_u[d];
      mean_q += in.gain[d] * grad_u[d] / kWidth;
      mean_qn += in.gain[d] * grad_u[d] * n[d] / kWidth;
    }
    for (int d = 0; d < kWidth; d++)
      result.grad[t * kWidth + d] = r * (in.gain[d] * grad_u[d] - mean_q - n[d] * mean_qn);
  }
  return result;
}

template <typename C>
Mapped run_add_linear(Dtype dtype, const Maps& in, const std::vector<double>& hidden,
                      const std::vector<double>& upstream) {
  const std::vector<C> x = converted<C>(in.x), h = converted<C>(hidden),
                       weight = converted<C>(in.down), bias = converted<C>(in.down_bias),
                       g = converted<C>(upstream);
  std::vector<C> output(x.size()), grad_h(h.size());
  const auto fill = [&](AddLinearParams& p) {
    p.num_rows = kRows, p.size = kWidth, p.inputs = kInner, p.dtype = dtype;
    p.h = h.data(), p.weight = weight.data();
    p.bytes = in.bytes.data(), p.threshold = kThreshold;
  };
  AddLinearForwardParams forward{};
  fill(forward);
  forward.x = x.data(), forward.bias = bias.data(), forward.output = output.data();
  AddLinearBackwardParams backward{};
  fill(backward);
  backward.grad_output = g.data(), backward.grad_h = grad_h.data();
  const Kernels& kernels = kBaselineKernels;
  const LinearSizes sizes = kernels.add_linear_sizes(forward);
  char *shared = memory_of(sizes.shared_bytes), *scratch = memory_of(sizes.scratch_bytes);
  std::vector<C> sums(sizes.sums);
  kernels.add_linear_pack(forward, shared);
  kernels.add_linear_forward(forward, {0, kRows}, shared, scratch);
  kernels.add_linear_backward(backward, {0, kRows}, sums.data(), scratch);
  std::free(shared);
  std::free(scratch);
  const auto wide = [](const std::vector<C>& n) { return std::vector<double>(n.begin(), n.end()); };
  return {wide(output), wide(grad_h), wide(sums)};
}

Mapped add_linear_formula(const Maps& in, const std::vector<double>& h,
                          const std::vector<double>& g) {
  Mapped result{std::vector<double>(kRows * kWidth), std::vector<double>(kRows * kInner),
                std::vector<double>(kWidth * (kInner + 1))};
  for (int t = 0; t < kRows; t++)
    for (int d = 0; d < kWidth; d++) {
      const double e = factor_of(in.bytes[t * kWidth + d]), z = e * g[t * kWidth + d];
      double sum = in.down_bias[d];
      for (int j = 0; j < kInner; j++) {
        sum += in.down[d * kInner + j] * h[t * kInner + j];
        result.grad[t * kInner + j] += z * in.down[d * kInner + j];
        result.sums[d * kInner + j] += z * h[t * kInner + j];
      }
      result.output[t * kWidth + d] = in.x[t * kWidth + d] + e * sum;
      result.sums[kWidth * kInner + d] += z;
    }
  return result;
}

}  // namespace

int main() {
  std::mt19937 random(0);
  std::normal_distribution<double> normal;
  const auto draw = [&](int count) {
    std::vector<double> numbers(count);
    for (double& x : numbers) x = static_cast<float>(normal(random));
    return numbers;
  };
  std::vector<double> query = draw(kTokens * kSize), value = draw(kTokens * kHeads * kSize);
  const std::vector<double> upstream = draw(kTokens * kHeads * kSize);
  std::vector<double> rate(kRate, kRate + kHeads), time = draw(kTokens);
  for (int i = 0; i < kTokens; i++) time[i] = std::abs(time[i]) + (i ? time[i - 1] : 1.6e9);

  bool good = true;
  std::printf("%s\n", kBaselineKernels.name);
  for (bool causal : {false, true}) {
    const auto exact = [&] {
      return run<double>(Dtype::float64, query, value, time, rate, upstream, causal);
    };
    const Results wide = exact();
    good &= close("output", wide.output, formula(query, value, time, causal), 1e-12);
    // Of every 131st element, as emulators are slow; the others are taken as they are.
    const auto differences = [&](std::vector<double>& numbers,
                                 const std::vector<double>& gradient) {
      std::vector<double> slopes = gradient;
      for (size_t k = 0; k < numbers.size(); k += kHeads == numbers.size() ? 1 : 131) {
        double& x = numbers[k];
        const double before = x, step = 1e-5;
        double sum = 0;
        for (double side : {1.0, -1.0}) {
          x = before + side * step;
          const std::vector<double> output = exact().output;
          for (size_t i = 0; i < output.size(); i++) sum += side * output[i] * upstream[i];
        }
        x = before;
        slopes[k] = sum / (2 * step);
      }
      return slopes;
    };
    good &= close("grad_query", wide.grad_query, differences(query, wide.grad_query), 1e-7);
    good &= close("grad_value", wide.grad_value, differences(value, wide.grad_value), 1e-7);
    good &= close("grad_rate", wide.grad_rate, differences(rate, wide.grad_rate), 1e-7);
    const Results narrow = run<float>(Dtype::float32, query, value, time, rate, upstream, causal);
    good &= close("output", narrow.output, wide.output, 1e-5);
    good &= close("grad_query", narrow.grad_query, wide.grad_query, 1e-5);
    good &= close("grad_value", narrow.grad_value, wide.grad_value, 1e-5);
    good &= close("grad_rate", narrow.grad_rate, wide.grad_rate, 1e-5);
  }
  // Exponents of 10^12: the key before has all the weight, and a score of -10^12.
  const double huge[kHeads] = {1e12, 2e12};
  std::vector<double> shifted(value.size());
  std::copy(value.begin(), value.end() - kHeads * kSize, shifted.begin() + kHeads * kSize);
  std::vector<double> shifted_back(value.size());
  std::copy(upstream.begin() + kHeads * kSize, upstream.end(), shifted_back.begin());
  const Results far =
      run<float>(Dtype::float32, query, value, time, rate, upstream, true, huge, true);
  good &= close("output", far.output, shifted, 0.0);
  good &= close("grad_value", far.grad_value, shifted_back, 0.0);
  good &= close("grad_query", far.grad_query, std::vector<double>(query.size()), 0.0);
  const std::vector<double> state = draw(kStates * kSize), items = draw(kItems * kSize);
  std::vector<int64_t> target(kStates * kTargets);
  bool wanted[kStates * kTargets];
  int64_t num_wanted = 0;
  for (int k = 0; k < kStates * kTargets; k++) {
    target[k] = random() % kItems;
    num_wanted += wanted[k] = k % kTargets == 0 || random() % 2;
  }
  const Loss want = loss_formula(state, items, target, wanted, num_wanted);
  const auto compare = [&](const Loss& got, double tolerance) {
    good &= close("loss", got.loss, want.loss, tolerance);
    good &= close("grad_state", got.grad_state, want.grad_state, tolerance);
    good &= close("grad_items", got.grad_items, want.grad_items, tolerance);
  };
  compare(run_loss<double>(Dtype::float64, state, items, target, wanted, num_wanted), 1e-12);
  compare(run_loss<float>(Dtype::float32, state, items, target, wanted, num_wanted), 1e-5);
  const std::vector<double> x = draw(kSources * kGraphHeads * kHeadSize),
                            left = draw(kSources * kGraphHeads),
                            right = draw(kGraphTargets * kGraphHeads),
                            g = draw(kGraphTargets * kGraphHeads * kHeadSize);
  const Attended expected = graph_formula(x, left, right, g);
  const auto compare_graph = [&](const Attended& got, double tolerance) {
    good &= close("graph", got.output, expected.output, tolerance);
    good &= close("grad_x", got.grad_x, expected.grad_x, tolerance);
    good &= close("grad_left", got.grad_left, expected.grad_left, tolerance);
    good &= close("grad_right", got.grad_right, expected.grad_right, tolerance);
  };
  compare_graph(run_graph<double>(Dtype::float64, x, left, right, g), 1e-12);
  compare_graph(run_graph<float>(Dtype::float32, x, left, right, g), 1e-5);
  Update update{draw(kNodes * kTerms * kWidth),
                draw(kKinds * kTerms * kWidth * kWidth),
                draw(kNodes * kWidth),
                draw(kKinds * kWidth * kWidth),
                draw(kKinds * kWidth),
                draw(kWidth),
                draw(kWidth),
                draw(kTerms * kNodes),
                {}};
  for (int v = 0; v < kNodes; v++)
    update.index.push_back(v), update.index.push_back(v % 5 ? 2 * kNodes - 1 - v : -1);
  const std::vector<double> of_nodes = draw(kNodes * kWidth);
  const Updated right_one = update_formula(update, of_nodes);
  const auto compare_update = [&](const Updated& got, double tolerance) {
    good &= close("update", got.output, right_one.output, tolerance);
    good &= close("grad_others", got.grad_others, right_one.grad_others, tolerance);
    good &= close("grad_own", got.grad_own, right_one.grad_own, tolerance);
    good &= close("sums", got.sums, right_one.sums, tolerance);
  };
  compare_update(run_update<double>(Dtype::float64, update, of_nodes), 1e-12);
  compare_update(run_update<float>(Dtype::float32, update, of_nodes), 1e-5);
  Maps maps{draw(kRows * kWidth),
            draw(kWidth),
            draw(kWidth),
            draw(kInner * kWidth),
            draw(kInner),
            draw(kWidth * kInner),
            draw(kWidth),
            std::vector<uint8_t>(kRows * kInner),
            std::vector<uint8_t>(kRows * kWidth)};
  for (uint8_t& byte : maps.inner_bytes) byte = static_cast<uint8_t>(random());
  for (uint8_t& byte : maps.bytes) byte = static_cast<uint8_t>(random());
  const std::vector<double> inner = draw(kRows * kInner), of_rows = draw(kRows * kWidth);
  const auto compare_maps = [&](const char* what, const Mapped& got, const Mapped& right_one,
                                double tolerance) {
    good &= close(what, got.output, right_one.output, tolerance);
    good &= close("grad", got.grad, right_one.grad, tolerance);
    good &= close("sums", got.sums, right_one.sums, tolerance);
  };
  for (Activation activation : {Activation::none, Activation::relu, Activation::elu}) {
    const Mapped exact = norm_linear_formula(maps, activation, inner);
    compare_maps("norm_linear", run_norm_linear<double>(Dtype::float64, maps, activation, inner),
                 exact, 1e-12);
    compare_maps("norm_linear", run_norm_linear<float>(Dtype::float32, maps, activation, inner),
                 exact, 1e-5);
  }
  const Mapped added = add_linear_formula(maps, inner, of_rows);
  compare_maps("add_linear", run_add_linear<double>(Dtype::float64, maps, inner, of_rows), added,
               1e-12);
  compare_maps("add_linear", run_add_linear<float>(Dtype::float32, maps, inner, of_rows), added,
               1e-5);
  return !good;
}
