// The table for AVX-512 F, BW, DQ and VL.
#include "kernels/avx512.inl.h"

#include "kernels/table.inl.h"

namespace prunetime {

constinit const Kernels kAvx512Kernels = table<kAvx512>("avx512", "Intel servers from Skylake, AMD from Zen 4");

}  // namespace prunetime
