// The table for AVX2 and FMA with AVX-VNNI.
#include "kernels/avx2.inl.h"

#include "kernels/table.inl.h"

namespace prunetime {

constinit const Kernels kAvx2VnniKernels =
    table<kAvx2 | kFma | kAvxVnni>("avx2_vnni", "Intel from Alder Lake, AMD from Zen 5");

}  // namespace prunetime
