// Elementary functions over whole vectors. Included once by each table, after its vector type.
// Comparisons are written so that a NaN passes through: min and max return their second argument for a NaN.

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

  inline __attribute__((always_inline)) Vec operator()(Vec t) const {
    const Vec piece = fma(min(t, last), scale, broadcast(kRound));  // in its low bits
    Vec value = lookup(coefficient[Degree], piece);
    for (int power = Degree - 1; power >= 0; --power) value = fma(value, t, lookup(coefficient[power], piece));
    return value;
  }
};
#endif

}  // namespace
}  // namespace prunetime

#include "kernels/fits.inl.h"

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

// GELU, x Phi(x), Phi the normal distribution function. An infinity gives NaN, as infinity times 0.
#if defined(PRUNETIME_LOOKUP)
// x / 2 + E(|x|) with E(t) = t / 2 - t Q(t), Q the upper tail. 0 gives exactly 0, so that padding stays what it is.
template <int Degree>
struct GeluOf {
  LoadedPiecewise<Degree> even;
  inline __attribute__((always_inline)) Vec operator()(Vec x) const { return fma(x, broadcast(0.5F), even(abs(x))); }
};

template <int Degree>
GeluOf(LoadedPiecewise<Degree>) -> GeluOf<Degree>;

// The fit in as many pieces as this table's shuffle looks up.
template <class Of32, class Of8>
constexpr const auto& fitting(const Of32& of32, const Of8& of8) {
  if constexpr (kPieces == 32) {
    return of32;
  } else {
    return of8;
  }
}

// Absolute error below 1e-6.
inline auto gelu() { return GeluOf{LoadedPiecewise{fitting(kGelu32, kGelu8)}}; }

// For results that are rounded to bf16 or to bytes: error below half an ulp of bf16 or 2e-6, whichever is larger.
inline auto rounded_gelu() { return GeluOf{LoadedPiecewise{fitting(kRoundedGelu32, kRoundedGelu8)}}; }
#else
// max(0, x) - t Q(t) from one polynomial. Absolute error below 1e-6, plus one rounding of x.
inline auto gelu() {
  return [](Vec x) {
    constexpr float kEnd = 5.2F;
    const Vec t = min(broadcast(kEnd), abs(x));
    const Vec s = fma(t, broadcast(2.0F / kEnd), broadcast(-1.0F));
    Vec h = broadcast(kTailOf12[12]);
    for (int power = 11; power >= 0; --power) h = fma(h, s, broadcast(kTailOf12[power]));
    return max(zero(), x) - abs(x) * ((broadcast(kEnd) - t) * h);
  };
}

inline auto rounded_gelu() { return gelu(); }
#endif

}  // namespace
}  // namespace prunetime
