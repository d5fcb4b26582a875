// The table for any CPU: vectors of four floats in the compiler's own vector notation (SSE2 on x86-64, NEON on
// aarch64), products rounded before they are added.
#include "kernels/kernels.h"

namespace prunetime {
namespace {

constexpr int kLanes = 4;
constexpr int kTileRows = 4;
constexpr int kPieceGroups = 256;
constexpr bool kPrefetches = false;
using Vec = float __attribute__((vector_size(16)));
using Bits = std::int32_t __attribute__((vector_size(16)));
using Words = std::uint32_t __attribute__((vector_size(16)));
using Unaligned = float __attribute__((vector_size(16), aligned(4), may_alias));

inline Vec load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
inline void store(float* to, Vec v) { *reinterpret_cast<Unaligned*>(to) = v; }
inline Vec broadcast(float value) { return Vec{value, value, value, value}; }
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec max(Vec a, Vec b) { return a > b ? a : b; }
inline Vec min(Vec a, Vec b) { return a < b ? a : b; }
inline Vec round(Vec v) {
  constexpr float kLargest = 4194304.0F;  // 2^22: from there on nothing is done
  const Vec rounded = (v + 3.0F * kLargest) - 3.0F * kLargest;
  return (v < kLargest) & (v > -kLargest) ? rounded : v;
}

// v 2^exponent; 0 below 2^-126, where normal floats end.
inline Vec times_power_of_two(Vec v, Vec exponent) {
  const Vec biased = max(broadcast(-127.0F), exponent) + (12582912.0F + 127.0F);  // in the low bits
  return v * __builtin_bit_cast(Vec, __builtin_bit_cast(Bits, biased) << 23);
}

inline Vec load_first(const float* from, int count) {
  Vec v{};
  for (int lane = 0; lane < kLanes && lane < count; ++lane) v[lane] = from[lane];
  return v;
}

inline void store_first(float* to, Vec v, int count) {
  for (int lane = 0; lane < kLanes && lane < count; ++lane) to[lane] = v[lane];
}

// Lane j of row i changes places with lane i of row j.
inline void transpose(Vec (&rows)[kLanes]) {
  const Vec low01 = __builtin_shufflevector(rows[0], rows[1], 0, 4, 1, 5);
  const Vec high01 = __builtin_shufflevector(rows[0], rows[1], 2, 6, 3, 7);
  const Vec low23 = __builtin_shufflevector(rows[2], rows[3], 0, 4, 1, 5);
  const Vec high23 = __builtin_shufflevector(rows[2], rows[3], 2, 6, 3, 7);
  rows[0] = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
  rows[1] = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
  rows[2] = __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
  rows[3] = __builtin_shufflevector(high01, high23, 2, 3, 6, 7);
}

inline float sum(Vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }

inline std::int32_t greatest_bits(Vec v) {
  const auto bits = __builtin_bit_cast(Bits, v);
  std::int32_t greatest = bits[0];
  for (int lane = 1; lane < kLanes; ++lane) greatest = bits[lane] > greatest ? bits[lane] : greatest;
  return greatest;
}

// Two vectors rounded to bf16, ties to even, denormals to zeros, as floats.
inline void store_bf16(std::byte* to, Vec low, Vec high) {
  const auto rounded = [](Vec v) {
    const auto bits = __builtin_bit_cast(Words, v);
    const Words nearest = bits + 0x7fff + (bits >> 16 & 1);
    const Words number = v == v ? nearest : bits | 0x400000;
    const Words normal = (bits & 0x7f800000) == 0 ? bits & 0x80000000 : number;
    return __builtin_bit_cast(Vec, normal & 0xffff0000);
  };
  float* floats = reinterpret_cast<float*>(to);
  store(floats, rounded(low));
  store(floats + kLanes, rounded(high));
}

// Each value rounded to a whole number, ties to even, from -zero to 255 - zero.
inline void store_int8(std::byte* to, Vec a, Vec b, Vec c, Vec d, std::int32_t zero) {
  constexpr float kMagic = 12582912.0F;  // 1.5 * 2^23: adding it rounds to a whole number, kept in the low bits
  const Vec all[] = {a, b, c, d};
  std::int16_t* words = reinterpret_cast<std::int16_t*>(to);
  for (const Vec v : all) {
    Bits q = __builtin_bit_cast(Bits, v + kMagic) - __builtin_bit_cast(std::int32_t, kMagic);
    q = q < -zero ? Bits{} - zero : q > 255 - zero ? Bits{} + 255 - zero : q;
    for (int lane = 0; lane < kLanes; ++lane) *words++ = static_cast<std::int16_t>(q[lane]);
  }
}

inline Vec expand(const float* packed, std::uint32_t lanes) {
  Vec v{};
  for (int lane = 0; lane < kLanes; ++lane) {
    if (lanes >> lane & 1U) v[lane] = *packed++;
  }
  return v;
}

}  // namespace
}  // namespace prunetime

#include "kernels/arithmetic.inl.h"

namespace prunetime {
namespace {

// Sums of the products of the two 16-bit numbers of every lane.
inline Ints multiply_pairs(Ints a, Ints b) {
  return (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
}

using Bf16 = Bf16AsFp32;
using Int8 = Int8As16Bits;

}  // namespace
}  // namespace prunetime

#include "kernels/table.inl.h"

namespace prunetime {

constinit const Kernels kPortableKernels = table<0>("portable", "any CPU");

}  // namespace prunetime
