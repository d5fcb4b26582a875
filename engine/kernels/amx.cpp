// The table for AMX (tiles, bf16, int8), and AVX-512 with VNNI and BF16.
#include "kernels/amx.inl.h"

namespace prunetime {
namespace {

// The instructions as they are: GCC's intrinsics take no template parameter as a tile, and do not tell the optimiser
// that they read memory. The compiler knows nothing of tiles, so nothing moves them.
struct NativeTiles {
  static void configure(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
  static void release() { asm volatile("tilerelease"); }

  template <int kTile>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }

  template <int kTile>
  static void load(const void* from, std::ptrdiff_t stride_bytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride_bytes), "i"(kTile) : "memory");
  }

  template <int kTile>
  static void store(void* to, std::ptrdiff_t stride_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride_bytes), "i"(kTile) : "memory");
  }

  template <int kSum, int kLeft, int kRight>
  static void multiply_bf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
  }

  // Unsigned bytes on the left, signed ones on the right.
  template <int kSum, int kLeft, int kRight>
  static void multiply_int8() {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
  }
};

}  // namespace

constinit const Kernels kAmxKernels =
    table_on_tiles<NativeTiles, kAvx512 | kAvx512Vnni | kAvx512Bf16 | kAmxTile | kAmxBf16 | kAmxInt8>(
        "amx", "Intel servers from Sapphire Rapids");

}  // namespace prunetime
