// The table for AVX2 and FMA. Only intrinsics here: a function of the standard library compiled with these flags could
// be the copy that the linker keeps for everybody.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace prunetime {
namespace {

constexpr const char* kIsa = "avx2";
constexpr int kLanes = 8;
constexpr int kTileRows = 6;
using Vec = __m256;

inline Vec load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Vec v) { _mm256_storeu_ps(to, v); }
inline Vec broadcast(float value) { return _mm256_set1_ps(value); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }

inline float sum(Vec v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
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

#include "kernels/table.inl.h"

const prunetime::Kernels prunetime::kAvx2Kernels = prunetime::table();
