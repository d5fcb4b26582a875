// The table for any CPU: vectors of four floats in the compiler's own vector notation (SSE2 on x86-64, NEON on
// aarch64), products rounded before they are added.
#include "kernels/kernels.h"

namespace prunetime {
namespace {

constexpr const char* kIsa = "portable";
constexpr int kLanes = 4;
constexpr int kTileRows = 4;
using Vec = float __attribute__((vector_size(16)));
using Unaligned = float __attribute__((vector_size(16), aligned(4), may_alias));

inline Vec load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
inline void store(float* to, Vec v) { *reinterpret_cast<Unaligned*>(to) = v; }
inline Vec broadcast(float value) { return Vec{value, value, value, value}; }
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec max(Vec a, Vec b) { return a > b ? a : b; }
inline Vec min(Vec a, Vec b) { return a < b ? a : b; }
inline float sum(Vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }

inline Vec expand(const float* packed, std::uint32_t lanes) {
  Vec v{};
  for (int lane = 0; lane < kLanes; ++lane) {
    if (lanes >> lane & 1U) v[lane] = *packed++;
  }
  return v;
}

}  // namespace
}  // namespace prunetime

#include "kernels/table.inl.h"

const prunetime::Kernels prunetime::kPortableKernels = prunetime::table();
