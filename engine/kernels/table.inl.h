// Everything of a table, from the vector type that the including file defines: kIsa, kLanes, kTileRows (rows of a tile
// of two vectors that fit the registers), Vec, load, store, broadcast, fma, max, min, sum and expand.
#include "kernels/math.inl.h"

#include "kernels/encode.inl.h"
#include "kernels/gemm.inl.h"

#include "kernels/attention.inl.h"
#include "kernels/norm.inl.h"

namespace prunetime {
namespace {

static_assert(kPad % kPanel == 0);

constexpr Kernels table() {
  return {.isa = kIsa,
          .panel = kPanel,
          .packed_floats = packed_floats,
          .pack = pack,
          .gemm = gemm,
          .attention_scratch_floats = attention_scratch_floats,
          .attention = attention,
          .embed = embed,
          .add_and_norm = add_and_norm};
}

}  // namespace
}  // namespace prunetime
