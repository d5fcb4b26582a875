// Everything of a table, from the vector type and the arithmetic that the including file defines.
#include "kernels/quantise.inl.h"

#include "kernels/gemm.inl.h"

#include "kernels/attention.inl.h"
#include "kernels/gate.inl.h"
#include "kernels/layer_norm.inl.h"
#include "kernels/rotary.inl.h"
// after layer_norm.inl.h
#include "kernels/embedding.inl.h"
// after everything that it times
#include "kernels/peak.inl.h"

namespace prunetime {
namespace {

static_assert(kPad % kPanel == 0);

void release_nothing() {}

// The instruction sets that the compiler may use in this file (CMakeLists.txt).
constexpr InstructionSets kCompiledFor = 0
#if defined(__AVX2__)
                                         | kAvx2
#endif
#if defined(__FMA__)
                                         | kFma
#endif
#if defined(__AVXVNNI__)
                                         | kAvxVnni
#endif
#if defined(__AVX512F__)
                                         | kAvx512F
#endif
#if defined(__AVX512BW__)
                                         | kAvx512Bw
#endif
#if defined(__AVX512DQ__)
                                         | kAvx512Dq
#endif
#if defined(__AVX512VL__)
                                         | kAvx512Vl
#endif
#if defined(__AVX512VNNI__)
                                         | kAvx512Vnni
#endif
#if defined(__AVX512BF16__)
                                         | kAvx512Bf16
#endif
    ;

template <InstructionSets kRequired>
constexpr Kernels table(const char* isa, const char* description) {
  static_assert((kCompiledFor & ~kRequired) == 0, "a CPU may run the table that lacks what its file is compiled for");
  return {.isa = isa,
          .description = description,
          .required = kRequired,
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
          .quantise = quantise,
          .release = release_nothing,
          .peak = peak,
          .read = read};
}

}  // namespace
}  // namespace prunetime
