// Elementary functions over whole vectors. Included once by each table, after its vector type.
// Comparisons are written so that a NaN passes through: min and max return their second argument for a NaN.

namespace prunetime {
namespace {

using Ints = std::int32_t __attribute__((vector_size(sizeof(Vec))));
using Words = std::uint32_t __attribute__((vector_size(sizeof(Vec))));

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

// e^x for x <= 0, relative error below 2e-7; below -87.3, where floats end, e^-87.3.
// x = n ln 2 + r with |r| <= ln 2 / 2; the polynomial in r is our own minimax fit, relative error 3.1e-9.
inline Vec exp_of_nonpositive(Vec x) {
  x = max(broadcast(-87.3F), x);
  const Vec magic = broadcast(12582912.0F);  // 1.5 * 2^23: adding it rounds to a whole number, kept in the low bits
  const Vec shifted = fma(x, broadcast(1.44269504F), magic);
  const Vec n = shifted - magic;
  Vec r = fma(n, broadcast(-0.693359375F), x);  // ln 2 in two parts, the first with few bits: n times it is exact
  r = fma(n, broadcast(2.12194440e-4F), r);
  Vec p = broadcast(1.381461276e-03F);
  p = fma(p, r, broadcast(8.368710056e-03F));
  p = fma(p, r, broadcast(4.166838899e-02F));
  p = fma(p, r, broadcast(1.666652113e-01F));
  p = fma(p, r, broadcast(4.999999404e-01F));
  p = fma(p * r, r, r) + 1.0F;
  const Vec power_of_two = of_bits((bits_of(shifted) << 23) + 0x3f800000);
  return p * power_of_two;
}

// x Phi(x), Phi the normal distribution function; absolute error below 5e-7 (plus one rounding of x).
// x Phi(x) = max(0, x) - |x| Q(|x|), Q the upper tail, which is 1.9e-8 at 5.5. Our own minimax fit of
// Q(t) = (5.5 - t) h(t), h of degree 14 in t scaled to [-1, 1]. It is exactly 0 from 5.5 on, so infinities become NaN.
inline Vec gelu(Vec x) {
  constexpr float kEnd = 5.5F;
  const Vec t = min(broadcast(kEnd), abs(x));
  const Vec s = fma(t, broadcast(2.0F / kEnd), broadcast(-1.0F));
  Vec h = broadcast(2.024818212e-03F);
  h = fma(h, s, broadcast(8.966936002e-05F));
  h = fma(h, s, broadcast(-1.085251756e-02F));
  h = fma(h, s, broadcast(4.962039646e-03F));
  h = fma(h, s, broadcast(2.278876118e-02F));
  h = fma(h, s, broadcast(-2.564195730e-02F));
  h = fma(h, s, broadcast(-1.292971056e-02F));
  h = fma(h, s, broadcast(4.636005685e-02F));
  h = fma(h, s, broadcast(-3.307495639e-02F));
  h = fma(h, s, broadcast(-1.438379940e-02F));
  h = fma(h, s, broadcast(5.004069954e-02F));
  h = fma(h, s, broadcast(-4.882846773e-02F));
  h = fma(h, s, broadcast(2.637440711e-02F));
  h = fma(h, s, broadcast(-8.010287769e-03F));
  h = fma(h, s, broadcast(1.083554351e-03F));
  return max(zero(), x) - abs(x) * ((broadcast(kEnd) - t) * h);
}

// (1 - e^-2|x|) / (1 + e^-2|x|) with the sign of x; an infinity becomes NaN, so that an overflow does not look fine.
inline Vec tanh(Vec x) {
  const Vec e = exp_of_nonpositive(abs(x) * -2.0F);
  return with_sign_of((1.0F - e) / (1.0F + e), x) + (x - x);
}

// max(0, x), exactly; minus infinity becomes NaN, as in gelu and tanh.
inline Vec relu(Vec x) { return (x + abs(x)) * 0.5F; }

inline Vec activate(Activation activation, Vec x) {
  switch (activation) {
    case Activation::gelu: return gelu(x);
    case Activation::relu: return relu(x);
    case Activation::tanh: return tanh(x);
    case Activation::identity: break;
  }
  return x;
}

}  // namespace
}  // namespace prunetime
