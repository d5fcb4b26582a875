// Everything of a table, from the vector type and the arithmetic that the including file defines.
#include "kernels/encode.inl.h"
#include "kernels/gemm.inl.h"

#include "kernels/attention.inl.h"
#include "kernels/elementwise.inl.h"
#include "kernels/norm.inl.h"
// after everything that it times
#include "kernels/peak.inl.h"

namespace prunetime {
namespace {

static_assert(kPad % kPanel == 0);

void leave_nothing() {}

constexpr Kernels table(const char* isa) {
  return {.isa = isa,
          .panel = kPanel,
          .groups_multiple = 1,
          .narrow_attention = kNarrowAttention,
          .number_bytes = kNumberBytes,
          .gemm = gemm,
          .attention_scratch_floats = attention_scratch_floats,
          .attention = attention,
          .rotate = rotate,
          .gate = gate,
          .embed = embed,
          .add_and_norm = add_and_norm,
          .encode = encode,
          .leave = leave_nothing,
          .peak = peak,
          .read = read};
}

}  // namespace
}  // namespace prunetime
