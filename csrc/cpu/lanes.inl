// Vectors of one instruction set, EMOREC_VECTOR_BYTES wide, through the compiler's vector types.
// C is the type that is computed in, float or double.
//
// The .inl files are compiled once per instruction set, see baseline.cpp. They include each other
// and no headers: those are included before the namespace of the instruction set is opened.
#pragma once

#define EMOREC_LANES_INLINE static inline __attribute__((always_inline))

template <typename C>
struct LaneTypes;

template <>
struct LaneTypes<float> {
  typedef float Real __attribute__((vector_size(EMOREC_VECTOR_BYTES)));
  typedef float Unaligned __attribute__((vector_size(EMOREC_VECTOR_BYTES), aligned(4), may_alias));
  typedef int32_t Int __attribute__((vector_size(EMOREC_VECTOR_BYTES)));
  typedef uint32_t Bits __attribute__((vector_size(EMOREC_VECTOR_BYTES)));
  typedef int32_t IntScalar;
};

template <>
struct LaneTypes<double> {
  typedef double Real __attribute__((vector_size(EMOREC_VECTOR_BYTES)));
  typedef double Unaligned __attribute__((vector_size(EMOREC_VECTOR_BYTES), aligned(8), may_alias));
  typedef int64_t Int __attribute__((vector_size(EMOREC_VECTOR_BYTES)));
  typedef uint64_t Bits __attribute__((vector_size(EMOREC_VECTOR_BYTES)));
  typedef int64_t IntScalar;
};

template <typename C>
using Real = typename LaneTypes<C>::Real;
template <typename C>
using Int = typename LaneTypes<C>::Int;
template <typename C>
using Bits = typename LaneTypes<C>::Bits;
template <typename C>
using IntScalar = typename LaneTypes<C>::IntScalar;

template <typename C>
constexpr int kLanes = EMOREC_VECTOR_BYTES / sizeof(C);

EMOREC_LANES_INLINE int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

EMOREC_LANES_INLINE int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }
EMOREC_LANES_INLINE int64_t maximum(int64_t a, int64_t b) { return a > b ? a : b; }

template <typename C>
EMOREC_LANES_INLINE Real<C> load(const C* p) {
  return *reinterpret_cast<const typename LaneTypes<C>::Unaligned*>(p);
}

template <typename C>
EMOREC_LANES_INLINE void store(C* p, Real<C> v) {
  *reinterpret_cast<typename LaneTypes<C>::Unaligned*>(p) = v;
}

template <typename C>
EMOREC_LANES_INLINE Real<C> broadcast(C a) {
  return a - Real<C>{};
}

// b where either is NaN.
template <typename V>
EMOREC_LANES_INLINE V larger(V a, V b) {
  return a > b ? a : b;
}

template <typename C>
EMOREC_LANES_INLINE Int<C> load(const IntScalar<C>* p) {
  Int<C> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

template <typename C>
EMOREC_LANES_INLINE Real<C> to_real(Int<C> v) {
  return __builtin_convertvector(v, Real<C>);
}

// {0, 1, 2, ...}
template <typename C>
EMOREC_LANES_INLINE Int<C> iota() {
  Int<C> v;
  for (int i = 0; i < kLanes<C>; i++) v[i] = i;
  return v;
}

template <typename C>
EMOREC_LANES_INLINE Int<C> broadcast_int(int64_t a) {
  return static_cast<IntScalar<C>>(a) - Int<C>{};
}

// Sum and largest of the lanes, in an order that depends on nothing.
template <typename C>
EMOREC_LANES_INLINE C sum_lanes(Real<C> v) {
#pragma GCC unroll 4
  for (int step = kLanes<C> / 2; step > 0; step /= 2) v += __builtin_shuffle(v, iota<C>() ^ step);
  return v[0];
}

template <typename C>
EMOREC_LANES_INLINE C largest_lane(Real<C> v) {
#pragma GCC unroll 4
  for (int step = kLanes<C> / 2; step > 0; step /= 2)
    v = larger(v, __builtin_shuffle(v, iota<C>() ^ step));
  return v[0];
}

// The kernels' scores and exponents count in powers of 2, which saves a product and the two-piece
// remainder of each exponential.
constexpr double kLog2E = 1.4426950408889634074;
constexpr double kLn2 = 0.69314718055994530942;

// 2^x for -125 <= x < 128 to about 1.5 ulp: 2^n times a polynomial in the rest. Adding 1.5 * 2^23
// rounds to an integer, which is then in the low bits. NaN stays NaN. Of other x the result may be
// anything, but Bits have no undefined overflow: masked keys may have any score.
EMOREC_LANES_INLINE Real<float> bounded_power_of_2(Real<float> x) {
  const Real<float> round = broadcast(12582912.f);
  const Real<float> shifted = x + round;
  const Real<float> r = x - (shifted - round);  // in [-1/2, 1/2]
  Real<float> p = broadcast(1.535336188319500e-4f);
  p = p * r + 1.339887440266574e-3f;
  p = p * r + 9.618437357674640e-3f;
  p = p * r + 5.550332471162809e-2f;
  p = p * r + 2.402264791363012e-1f;
  p = p * r + 6.931472028550421e-1f;
  p = p * r + 1.0f;
  return (Real<float>)((Bits<float>)p + ((Bits<float>)shifted << 23));
}

// Below 2 to the minus this, powers of 2 are taken for 0.
template <typename C>
constexpr C kLowestExponent = sizeof(C) == 4 ? C(125) : C(1020);

// The same for any x < 128, 0 below -125.
EMOREC_LANES_INLINE Real<float> power_of_2(Real<float> x) {
  const Real<float> lowest = broadcast(-kLowestExponent<float>);
  const Real<float> e = bounded_power_of_2(larger(lowest, x));
  return x < lowest ? Real<float>{} : e;
}

// The same in double, for -1020 <= x < 1024; Taylor's polynomial of e^(r ln 2) of degree 13 has an
// error of 2^-58.
EMOREC_LANES_INLINE Real<double> bounded_power_of_2(Real<double> x) {
  const Real<double> round = broadcast(6755399441055744.0);
  const Real<double> shifted = x + round;
  const Real<double> r = (x - (shifted - round)) * kLn2;
  Real<double> p = broadcast(1.0 / 6227020800.0);
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * (r * r) + r + 1.0;
  return (Real<double>)((Bits<double>)p + ((Bits<double>)shifted << 52));
}

EMOREC_LANES_INLINE Real<double> power_of_2(Real<double> x) {
  const Real<double> lowest = broadcast(-kLowestExponent<double>);
  const Real<double> e = bounded_power_of_2(larger(lowest, x));
  return x < lowest ? Real<double>{} : e;
}

template <typename C>
EMOREC_LANES_INLINE C power_of_2_of(C x) {
  return power_of_2(broadcast(x))[0];
}

// Where two vectors are zipped: a0 b0 a1 b1 ... from their lower and upper halves.
template <int kWidth, typename I>
struct Zip;
template <typename I>
struct Zip<2, I> {
  static constexpr I low = {0, 2}, high = {1, 3};
};
template <typename I>
struct Zip<4, I> {
  static constexpr I low = {0, 4, 1, 5}, high = {2, 6, 3, 7};
};
template <typename I>
struct Zip<8, I> {
  static constexpr I low = {0, 8, 1, 9, 2, 10, 3, 11}, high = {4, 12, 5, 13, 6, 14, 7, 15};
};
template <typename I>
struct Zip<16, I> {
  static constexpr I low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
  static constexpr I high = {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
};

// Transposes a square of vectors in registers: log2(width) rounds of zipping its two halves.
template <typename C>
EMOREC_LANES_INLINE void transpose(Real<C>* rows) {
  constexpr int kWidth = kLanes<C>;
  typedef Zip<kWidth, Int<C>> Z;
#pragma GCC unroll 4
  for (int done = 1; done < kWidth; done *= 2) {
    Real<C> zipped[kWidth];
#pragma GCC unroll 8
    for (int i = 0; i < kWidth / 2; i++) {
      zipped[2 * i] = __builtin_shuffle(rows[i], rows[i + kWidth / 2], Z::low);
      zipped[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + kWidth / 2], Z::high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; i++) rows[i] = zipped[i];
  }
}

// Doubles to C, kLanes<C> of them.
EMOREC_LANES_INLINE Real<double> narrow(const double* p, double minus, double) {
  return load(p) - minus;
}
EMOREC_LANES_INLINE Real<float> narrow(const double* p, double minus, float) {
  Real<float> v;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<float>; i++) v[i] = static_cast<float>(p[i] - minus);
  return v;
}
