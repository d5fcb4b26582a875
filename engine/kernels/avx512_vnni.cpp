// The table for AVX-512 with VNNI.
#include "kernels/avx512.inl.h"

#include "kernels/table.inl.h"

namespace prunetime {

constinit const Kernels kAvx512VnniKernels =
    table<kAvx512 | kAvx512Vnni>("avx512_vnni", "Intel servers from Cascade Lake, AMD from Zen 4");

}  // namespace prunetime
