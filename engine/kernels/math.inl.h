// Elementary functions over whole vectors. Those of long chains take several vectors at once, step by step: a CPU looks
// ahead over too few instructions to interleave them itself. Included once by each table, after its vector type.
// Comparisons are written so that a NaN passes through: min and max return their second argument for a NaN.

#if defined(__clang__)
#define PRUNETIME_UNROLL _Pragma("unroll")
#else
#define PRUNETIME_UNROLL _Pragma("GCC unroll 32")
#endif

namespace prunetime {
namespace {

using Ints = std::int32_t __attribute__((vector_size(sizeof(Vec))));
using Words = std::uint32_t __attribute__((vector_size(sizeof(Vec))));

constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to a whole number, kept in the low bits

inline Vec zero() { return Vec{}; }
inline Ints bits_of(Vec v) { return reinterpret_cast<Ints>(v); }
inline Vec of_bits(Ints bits) { return reinterpret_cast<Vec>(bits); }
inline Vec abs(Vec v) { return of_bits(bits_of(v) & 0x7fffffff); }
inline Vec with_sign_of(Vec magnitude, Vec v) { return of_bits(bits_of(magnitude) | (bits_of(v) & ~0x7fffffff)); }

// The first `count` lanes of v, zero beyond.
inline Vec keep_first(Vec v, int count) {
  Ints lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return of_bits(bits_of(v) & (lane < count));
}

// A function of t >= 0 in pieces that a shuffle looks up: the first of half the width of the others, the last without end.
template <int Degree, int Pieces>
struct Piecewise {
  float scale;                                        // 1 / width of a piece
  alignas(64) float coefficient[Degree + 1][Pieces];  // [power][piece]
};

#if defined(PRUNETIME_LOOKUP)
// The same with its tables in registers.
template <int Degree>
struct LoadedPiecewise {
  Vec last, scale;
  Table coefficient[Degree + 1];

  inline explicit LoadedPiecewise(const Piecewise<Degree, kPieces>& function)
      : last(broadcast(static_cast<float>(kPieces - 1) / function.scale)), scale(broadcast(function.scale)) {
    for (int power = 0; power <= Degree; ++power) coefficient[power] = load_table(function.coefficient[power]);
  }

  template <int Count>
  inline __attribute__((always_inline)) void operator()(const Vec (&t)[Count], Vec (&value)[Count]) const {
    Vec piece[Count];  // in the low bits
    PRUNETIME_UNROLL
    for (int i = 0; i < Count; ++i) piece[i] = fma(min(t[i], last), scale, broadcast(kRound));
    PRUNETIME_UNROLL
    for (int i = 0; i < Count; ++i) value[i] = lookup(coefficient[Degree], piece[i]);
    PRUNETIME_UNROLL
    for (int power = Degree - 1; power >= 0; --power) {
      PRUNETIME_UNROLL
      for (int i = 0; i < Count; ++i) value[i] = fma(value[i], t[i], lookup(coefficient[power], piece[i]));
    }
  }
};
#endif

}  // namespace
}  // namespace prunetime

#include "kernels/polynomials.inl.h"

namespace prunetime {
namespace {

// 2^x for x <= 0 (or barely above): relative error below 2e-7 with degree 5, 1.1e-4 with degree 3; about 0 below
// -126, where floats end. Minus infinity gives 0 or NaN.
template <int Degree = 5>
inline Vec exp2_of_nonpositive(Vec x) {
  static_assert(Degree == 5 || Degree == 3);
  const float* coefficient = Degree == 5 ? kExp2Of5 : kExp2Of3;
  const Vec n = round(x);
  const Vec r = x - n;
  Vec p = broadcast(coefficient[Degree]);
  for (int power = Degree - 1; power >= 0; --power) p = fma(p, r, broadcast(coefficient[power]));
  return times_power_of_two(p, n);
}

constexpr float kLog2OfE = 1.44269504F;

// (1 - e^-2|x|) / (1 + e^-2|x|) with the sign of x; an infinity becomes NaN.
inline Vec tanh(Vec x) {
  const Vec e = exp2_of_nonpositive(abs(x) * (-2.0F * kLog2OfE));
  return with_sign_of((1.0F - e) / (1.0F + e), x) + (x - x);
}

// max(0, x), exactly; minus infinity becomes NaN, as in gelu and tanh.
inline Vec relu(Vec x) { return (x + abs(x)) * 0.5F; }

// GELU, x Phi(x), Phi the normal distribution function. 0 gives exactly 0, so that padding stays what it is; minus
// infinity becomes NaN.
#if defined(PRUNETIME_LOOKUP)
// x / 2 + E(|x|) with E(t) = t / 2 - t Q(t), Q the upper tail.
template <int Degree>
struct GeluByPieces {
  LoadedPiecewise<Degree> even;

  template <int Count>
  inline __attribute__((always_inline)) void operator()(Vec (&x)[Count]) const {
    Vec t[Count], value[Count];
    PRUNETIME_UNROLL
    for (int i = 0; i < Count; ++i) t[i] = abs(x[i]);
    even(t, value);
    PRUNETIME_UNROLL
    for (int i = 0; i < Count; ++i) x[i] = fma(x[i], broadcast(0.5F), value[i]);
  }
};

template <int Degree>
GeluByPieces(LoadedPiecewise<Degree>) -> GeluByPieces<Degree>;

// Absolute error below 1e-6.
inline auto gelu() { return GeluByPieces{LoadedPiecewise{kGelu32}}; }

// For results that are rounded to bf16 or to bytes: error below half an ulp of bf16 or 2e-6, whichever is larger.
inline auto rounded_gelu() { return GeluByPieces{LoadedPiecewise{kRoundedGelu32}}; }
#else
// max(0, x) - t Q(t) with t = |x|, at most kTailEnd, and Q(t) = (kTailEnd - t) p(s), s = t - kTailEnd / 2: what stands
// before p, t (kTailEnd - t), is (kTailEnd / 2)^2 - s^2, exactly 0 at both ends.
constexpr float kTailEnd = 5.25F;

template <int Degree>
struct GeluByTail {
  const float* coefficient;

  template <int Count>
  inline __attribute__((always_inline)) void operator()(Vec (&x)[Count]) const {
    constexpr float kHalf = kTailEnd / 2;
    Vec s[Count], p[Count];
    PRUNETIME_UNROLL
    for (int i = 0; i < Count; ++i) {
      s[i] = min(broadcast(kTailEnd), abs(x[i])) - broadcast(kHalf);
      p[i] = broadcast(coefficient[Degree]);
    }
    PRUNETIME_UNROLL
    for (int power = Degree - 1; power >= 0; --power) {
      PRUNETIME_UNROLL
      for (int i = 0; i < Count; ++i) p[i] = fma(p[i], s[i], broadcast(coefficient[power]));
    }
    PRUNETIME_UNROLL
    for (int i = 0; i < Count; ++i) {
      const Vec factor = fma(s[i], s[i], broadcast(-kHalf * kHalf));
      x[i] = fma(factor, p[i], max(zero(), x[i])) + (x[i] - x[i]);
    }
  }
};

// Absolute error below 1e-6.
inline auto gelu() { return GeluByTail<12>{kTailOf12}; }

// For results that are rounded to bf16 or to bytes: error below half an ulp of bf16 or 2e-6, whichever is larger.
inline auto rounded_gelu() { return GeluByTail<10>{kRoundedTailOf10}; }
#endif

}  // namespace
}  // namespace prunetime
