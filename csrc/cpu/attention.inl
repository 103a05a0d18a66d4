// Attention over one sequence, for any precision and decay.
#pragma once

#include "attention_backward.inl"
#include "attention_forward.inl"

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
