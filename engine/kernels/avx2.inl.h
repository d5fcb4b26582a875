// What the tables for AVX2 and FMA share, with AVX-VNNI where the including file is compiled for it. Only intrinsics
// here: a function of the standard library compiled with these flags could be the copy that the linker keeps for
// everybody.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace prunetime {
namespace {

constexpr int kLanes = 8;
constexpr int kTileRows = 6;
constexpr int kPieceGroups = 256;  // 16 KiB of a panel, half of the L1 cache; AMD Zen 3: 128 and 512 are slower
constexpr bool kPrefetches = true;  // AMD Zen 3: 4 to 10 % faster
using Vec = __m256;

inline Vec load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Vec v) { _mm256_storeu_ps(to, v); }
inline Vec broadcast(float value) { return _mm256_set1_ps(value); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }

inline Vec round(Vec v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

// v 2^exponent; 0 below 2^-126, where normal floats end.
inline Vec times_power_of_two(Vec v, Vec exponent) {
  const Vec biased = _mm256_max_ps(_mm256_set1_ps(-127.0F), exponent) + (12582912.0F + 127.0F);  // in the low bits
  return v * _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(biased), 23));
}

inline __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// Masked stores of whole vectors made attention over 64 tokens 12 to 17 % slower on AMD Zen 3.
inline Vec load_first(const float* from, int count) {
  return count >= kLanes ? load(from) : _mm256_maskload_ps(from, first_lanes(count));
}
inline void store_first(float* to, Vec v, int count) {
  if (count >= kLanes) return store(to, v);
  _mm256_maskstore_ps(to, first_lanes(count), v);
}

// Lane j of row i changes places with lane i of row j.
inline void transpose(Vec (&rows)[kLanes]) {
  Vec t[kLanes];
  for (int i = 0; i < kLanes; i += 2) {
    t[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < kLanes; i += 4) {  // rows[i + k]: column k of rows i to i + 3, in each half
    rows[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    rows[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    rows[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    rows[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int k = 0; k < 4; ++k) {
    const Vec low = rows[k], high = rows[4 + k];
    rows[k] = _mm256_permute2f128_ps(low, high, 0x20);
    rows[4 + k] = _mm256_permute2f128_ps(low, high, 0x31);
  }
}

inline float sum(Vec v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline std::int32_t greatest_bits(Vec v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
  const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, _MM_SHUFFLE(1, 0, 3, 2)));
  return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, _MM_SHUFFLE(2, 3, 0, 1))));
}

// Two vectors rounded to bf16, ties to even, denormals to zeros, as floats.
inline void store_bf16(std::byte* to, Vec low, Vec high) {
  const auto rounded = [](Vec v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i nearest = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i number = _mm256_castps_si256(
        _mm256_blendv_ps(_mm256_castsi256_ps(nearest), _mm256_castsi256_ps(quiet), _mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
    const __m256i exponent = _mm256_and_si256(bits, _mm256_set1_epi32(0x7f800000));
    const __m256i denormal = _mm256_cmpeq_epi32(exponent, _mm256_setzero_si256());
    const __m256i dropped = _mm256_or_si256(_mm256_srli_epi32(denormal, 1), _mm256_set1_epi32(0xffff));  // all but a sign
    return _mm256_castsi256_ps(_mm256_andnot_si256(dropped, number));
  };
  float* floats = reinterpret_cast<float*>(to);
  store(floats, rounded(low));
  store(floats + kLanes, rounded(high));
}

// Each value rounded to a whole number, ties to even, from -zero to 255 - zero; bytes are that plus `zero`.
inline void store_int8(std::byte* to, Vec a, Vec b, Vec c, Vec d, std::int32_t zero) {
  const auto words = [](Vec v, Vec w) { return _mm256_packs_epi32(_mm256_cvtps_epi32(v), _mm256_cvtps_epi32(w)); };
  const auto spread = [](std::int32_t v) { return _mm256_set1_epi16(static_cast<short>(v)); };
#if defined(__AVXVNNI__)
  const __m256i low = _mm256_add_epi16(words(a, b), spread(zero)), high = _mm256_add_epi16(words(c, d), spread(zero));
  const __m256i bytes = _mm256_packus_epi16(low, high);  // fours of columns, by 128 bits
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(bytes, order));
#else
  const auto store_words = [&](std::byte* at, __m256i v) {  // fours of columns, by 64 bits: 0, 2, 1, 3
    const __m256i inside = _mm256_min_epi16(_mm256_max_epi16(v, spread(-zero)), spread(255 - zero));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), _mm256_permute4x64_epi64(inside, _MM_SHUFFLE(3, 1, 2, 0)));
  };
  store_words(to, words(a, b));
  store_words(to + sizeof(Vec), words(c, d));
#endif
}

// Lane i takes the packed value numbered by the kept lanes below it.
inline Vec expand(const float* packed, std::uint32_t lanes) {
  const __m256i lane_bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i all_lanes = _mm256_set1_epi32(static_cast<int>(lanes));
  const __m256i kept = _mm256_cmpeq_epi32(_mm256_and_si256(all_lanes, lane_bit), lane_bit);
  alignas(32) std::int32_t source[kLanes];
  for (int lane = 0, next = 0; lane < kLanes; ++lane) {
    source[lane] = next;
    next += static_cast<int>(lanes >> lane & 1U);
  }
  const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(source));
  return _mm256_and_ps(_mm256_permutevar8x32_ps(_mm256_loadu_ps(packed), order), _mm256_castsi256_ps(kept));
}

}  // namespace
}  // namespace prunetime

#include "kernels/arithmetic.inl.h"

namespace prunetime {
namespace {

inline Ints multiply_pairs(Ints a, Ints b) { return (Ints)_mm256_madd_epi16((__m256i)a, (__m256i)b); }

using Bf16 = Bf16AsFp32;

#if defined(__AVXVNNI__)
struct NativeInt8 {
  static constexpr bool kWholeNumbers = true;
  static constexpr int kBytes = 1;
  static constexpr int kRows = kTileRows;
  using Sum = Ints;
  using Left = Ints;
  using Right = Ints;
  static Left left(const std::byte* from) { return broadcast_group(from); }
  static Right right(const std::uint32_t* from) { return load_groups(from); }
  static Sum multiply_add(Left left, Right right, Sum sum) {
    return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)left, (__m256i)right);
  }
};
using Int8 = NativeInt8;
#else
using Int8 = Int8As16Bits;
#endif

}  // namespace
}  // namespace prunetime
