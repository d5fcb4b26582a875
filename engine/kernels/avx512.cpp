// The table for AVX-512 F, BW, DQ and VL. Only intrinsics here: a function of the standard library compiled with these
// flags could be the copy that the linker keeps for everybody.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace prunetime {
namespace {

constexpr const char* kIsa = "avx512";
constexpr int kLanes = 16;
constexpr int kTileRows = 12;
using Vec = __m512;

inline Vec load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Vec v) { _mm512_storeu_ps(to, v); }
inline Vec broadcast(float value) { return _mm512_set1_ps(value); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline float sum(Vec v) { return _mm512_reduce_add_ps(v); }

inline Vec expand(const float* packed, std::uint32_t lanes) {
  return _mm512_maskz_expandloadu_ps(static_cast<__mmask16>(lanes), packed);
}

}  // namespace
}  // namespace prunetime

#include "kernels/table.inl.h"

const prunetime::Kernels prunetime::kAvx512Kernels = prunetime::table();
