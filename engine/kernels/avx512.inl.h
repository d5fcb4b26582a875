// What the tables for AVX-512 share: F, BW, DQ and VL, and VNNI and BF16 where the including file is compiled for them.
// Only intrinsics here: a function of the standard library compiled with these flags could be the copy that the linker
// keeps for everybody.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace prunetime {
namespace {

constexpr int kLanes = 16;
constexpr int kTileRows = 14;
constexpr int kSplitTileRows = 12;
using Vec = __m512;

inline Vec load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Vec v) { _mm512_storeu_ps(to, v); }
inline Vec broadcast(float value) { return _mm512_set1_ps(value); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline float sum(Vec v) { return _mm512_reduce_add_ps(v); }

inline std::int32_t greatest_bits(Vec v) { return _mm512_reduce_max_epi32(_mm512_castps_si512(v)); }

// Two vectors as bf16, ties to even, denormals as zeros.
inline void store_bf16(std::uint16_t* to, Vec low, Vec high) {
#if defined(__AVX512BF16__)
  const __m512bh both = _mm512_cvtne2ps_pbh(high, low);
  __builtin_memcpy(to, &both, sizeof both);
#else
  const auto rounded = [](Vec v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    constexpr int kNan = 0x01 | 0x80;
    constexpr int kDenormal = 0x20;
    r = _mm512_mask_or_epi32(r, _mm512_fpclass_ps_mask(v, kNan), bits, _mm512_set1_epi32(0x400000));
    const __m512i sign = _mm512_set1_epi32(INT32_MIN);
    return _mm512_mask_and_epi32(r, _mm512_fpclass_ps_mask(v, kDenormal), bits, sign);
  };
  const __m512i upper_halves = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29,
                                                27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(rounded(low), upper_halves, rounded(high)));
#endif
}

// Each value rounded to a whole number, ties to even, plus `zero`, as 0..255.
inline void store_u8(std::uint8_t* to, Vec a, Vec b, Vec c, Vec d, std::int32_t zero) {
  const __m512i zeros = _mm512_set1_epi16(static_cast<short>(zero));
  const auto words = [&](Vec v, Vec w) {
    return _mm512_add_epi16(_mm512_packs_epi32(_mm512_cvtps_epi32(v), _mm512_cvtps_epi32(w)), zeros);
  };
  const __m512i bytes = _mm512_packus_epi16(words(a, b), words(c, d));  // fours of columns, by 128 bits
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(to, _mm512_permutexvar_epi32(order, bytes));
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

#if defined(__AVX512BF16__)
struct NativeBf16 {
  static constexpr bool kWholeNumbers = false;
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
using Int8 = SplitInt8;
#endif

}  // namespace
}  // namespace prunetime
