// What the tables for AVX-512 share: F, BW, DQ and VL, and VNNI and BF16 where the including file is compiled for them.
// Only intrinsics here: a function of the standard library compiled with these flags could be the copy that the linker
// keeps for everybody.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace prunetime {
namespace {

constexpr InstructionSets kAvx512 = kAvx2 | kFma | kAvx512F | kAvx512Bw | kAvx512Dq | kAvx512Vl;
constexpr int kLanes = 16;
constexpr int kTileRows = 14;
constexpr int kPieceGroups = INT32_MAX;  // neither this
constexpr bool kPrefetches = false;       // nor this has been measured
constexpr int kSplitTileRows = 12;
using Vec = __m512;

inline Vec load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Vec v) { _mm512_storeu_ps(to, v); }
inline Vec broadcast(float value) { return _mm512_set1_ps(value); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec round(Vec v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec times_power_of_two(Vec v, Vec exponent) { return _mm512_scalef_ps(v, exponent); }

inline __mmask16 first_lanes(int count) {
  return static_cast<__mmask16>(count < kLanes ? (1U << (count < 0 ? 0 : count)) - 1U : 0xffffU);
}

inline Vec load_first(const float* from, int count) { return _mm512_maskz_loadu_ps(first_lanes(count), from); }
inline void store_first(float* to, Vec v, int count) { _mm512_mask_storeu_ps(to, first_lanes(count), v); }

#define PRUNETIME_LOOKUP
constexpr int kPieces = 2 * kLanes;
struct Table {
  Vec first, second;
};
inline Table load_table(const float* from) { return {_mm512_load_ps(from), _mm512_load_ps(from + kLanes)}; }
// The floats of the table that the low five bits of each index name.
inline Vec lookup(const Table& table, Vec index) {
  return _mm512_permutex2var_ps(table.first, _mm512_castps_si512(index), table.second);
}

// Lane j of row i changes places with lane i of row j.
inline void transpose(Vec (&rows)[kLanes]) {
  Vec t[kLanes];
  for (int i = 0; i < kLanes; i += 2) {
    t[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
  const auto pairs = [](Vec a, Vec b, bool high) {
    const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return _mm512_castpd_ps(high ? _mm512_unpackhi_pd(x, y) : _mm512_unpacklo_pd(x, y));
  };
  for (int i = 0; i < kLanes; i += 4) {  // rows[i + k]: column k of rows i to i + 3, in each quarter
    rows[i] = pairs(t[i], t[i + 2], false);
    rows[i + 1] = pairs(t[i], t[i + 2], true);
    rows[i + 2] = pairs(t[i + 1], t[i + 3], false);
    rows[i + 3] = pairs(t[i + 1], t[i + 3], true);
  }
  for (int k = 0; k < 4; ++k) {
    const Vec low02 = _mm512_shuffle_f32x4(rows[k], rows[4 + k], 0x88);
    const Vec low13 = _mm512_shuffle_f32x4(rows[k], rows[4 + k], 0xdd);
    const Vec high02 = _mm512_shuffle_f32x4(rows[8 + k], rows[12 + k], 0x88);
    const Vec high13 = _mm512_shuffle_f32x4(rows[8 + k], rows[12 + k], 0xdd);
    t[k] = _mm512_shuffle_f32x4(low02, high02, 0x88);
    t[8 + k] = _mm512_shuffle_f32x4(low02, high02, 0xdd);
    t[4 + k] = _mm512_shuffle_f32x4(low13, high13, 0x88);
    t[12 + k] = _mm512_shuffle_f32x4(low13, high13, 0xdd);
  }
  for (int i = 0; i < kLanes; ++i) rows[i] = t[i];
}

inline float sum(Vec v) { return _mm512_reduce_add_ps(v); }

inline std::int32_t greatest_bits(Vec v) { return _mm512_reduce_max_epi32(_mm512_castps_si512(v)); }

// Two vectors as bf16, ties to even, denormals as zeros.
inline void store_bf16(std::byte* to, Vec low, Vec high) {
#if defined(__AVX512BF16__)
  const __m512bh both = _mm512_cvtne2ps_pbh(high, low);
  __builtin_memcpy(to, &both, sizeof both);
#else
  const auto rounded = [](Vec v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    constexpr int kNan = 0x01 | 0x80;
    r = _mm512_mask_or_epi32(r, _mm512_fpclass_ps_mask(v, kNan), bits, _mm512_set1_epi32(0x400000));
    const __mmask16 denormal = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7f800000));  // or zero
    return _mm512_mask_and_epi32(r, denormal, bits, _mm512_set1_epi32(INT32_MIN));
  };
  const __m512i upper_halves = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29,
                                                27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(rounded(low), upper_halves, rounded(high)));
#endif
}

#if defined(__AVX512BF16__)
#define PRUNETIME_BF16_PAIRS

// Pairs of bf16, the lower first, in lanes of 32 bits.
inline Vec multiply_add_pairs(Vec a, Vec b, Vec sums) {
  return _mm512_dpbf16_ps(sums, __builtin_bit_cast(__m512bh, a), __builtin_bit_cast(__m512bh, b));
}

inline Vec pack_pairs(Vec low, Vec high) {
  const auto packed = __builtin_bit_cast(__m512i, _mm512_cvtne2ps_pbh(high, low));
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, packed));
}

// The first `count` numbers of a row, up to 2 * kLanes of them, as pairs; zeros beyond.
inline Vec load_pairs(const std::uint16_t* row, int count) {
  const auto lanes = static_cast<__mmask32>(count < 2 * kLanes ? (1U << count) - 1U : ~0U);
  return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(lanes, row));
}

// Up to kLanes numbers as floats; zeros beyond.
inline Vec load_first(const std::uint16_t* row, int count) {
  const __m256i halves = _mm256_maskz_loadu_epi16(first_lanes(count), row);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
#endif

// Each value rounded to a whole number, ties to even, from -zero to 255 - zero; bytes are that plus `zero`.
inline void store_int8(std::byte* to, Vec a, Vec b, Vec c, Vec d, std::int32_t zero) {
  const auto words = [](Vec v, Vec w) { return _mm512_packs_epi32(_mm512_cvtps_epi32(v), _mm512_cvtps_epi32(w)); };
  const auto spread = [](std::int32_t v) { return _mm512_set1_epi16(static_cast<short>(v)); };
#if defined(__AVX512VNNI__)
  const __m512i low = _mm512_add_epi16(words(a, b), spread(zero)), high = _mm512_add_epi16(words(c, d), spread(zero));
  const __m512i bytes = _mm512_packus_epi16(low, high);  // fours of columns, by 128 bits
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(to, _mm512_permutexvar_epi32(order, bytes));
#else
  const auto store_words = [&](std::byte* at, __m512i v) {  // fours of columns, by 64 bits
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    const __m512i inside = _mm512_min_epi16(_mm512_max_epi16(v, spread(-zero)), spread(255 - zero));
    _mm512_storeu_si512(at, _mm512_permutexvar_epi64(order, inside));
  };
  store_words(to, words(a, b));
  store_words(to + sizeof(Vec), words(c, d));
#endif
}

inline Vec expand(const float* packed, std::uint32_t lanes) {
  return _mm512_maskz_expandloadu_ps(static_cast<__mmask16>(lanes), packed);
}

}  // namespace
}  // namespace prunetime

#include "kernels/arithmetic.inl.h"

namespace prunetime {
namespace {

inline Ints multiply_pairs(Ints a, Ints b) { return (Ints)_mm512_madd_epi16((__m512i)a, (__m512i)b); }

// The two numbers of a group become two floats.
struct SplitBf16 {
  static constexpr bool kWholeNumbers = false;
  static constexpr int kBytes = 2;
  static constexpr int kRows = kSplitTileRows;
  using Sum = Vec;
  struct Pair {
    Vec first, second;
  };
  using Left = Pair;
  using Right = Pair;
  static Pair split(Ints group) { return {of_bits(group << 16), of_bits(group & ~0xffff)}; }
  static Left left(const std::byte* from) { return split(broadcast_group(from)); }
  static Right right(const std::uint32_t* from) { return split(load_groups(from)); }
  static Sum multiply_add(const Left& left, const Right& right, Sum sum) {
    return fma(left.second, right.second, fma(left.first, right.first, sum));
  }
};

#if defined(__AVX512BF16__)
struct NativeBf16 {
  static constexpr bool kWholeNumbers = false;
  static constexpr int kBytes = 2;
  static constexpr int kRows = kTileRows;
  using Sum = Vec;
  using Left = __m512bh;
  using Right = __m512bh;
  static Left left(const std::byte* from) { return (__m512bh)broadcast_group(from); }
  static Right right(const std::uint32_t* from) { return (__m512bh)load_groups(from); }
  static Sum multiply_add(Left left, Right right, Sum sum) { return _mm512_dpbf16_ps(sum, left, right); }
};
using Bf16 = NativeBf16;
#else
using Bf16 = SplitBf16;
#endif

#if defined(__AVX512VNNI__)
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
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)left, (__m512i)right);
  }
};
using Int8 = NativeInt8;
#else
using Int8 = Int8As16Bits;
#endif

}  // namespace
}  // namespace prunetime
