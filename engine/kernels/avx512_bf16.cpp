// The table for AVX-512 with VNNI and BF16.
#include "kernels/avx512.inl.h"

#include "kernels/table.inl.h"

namespace prunetime {

constinit const Kernels kAvx512Bf16Kernels =
    table<kAvx512 | kAvx512Vnni | kAvx512Bf16>("avx512_bf16", "Intel servers from Cooper Lake, AMD from Zen 4");

}  // namespace prunetime
