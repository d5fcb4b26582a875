// The table for AVX2 and FMA.
#include "kernels/avx2.inl.h"

#include "kernels/table.inl.h"

namespace prunetime {

constinit const Kernels kAvx2Kernels = table<kAvx2 | kFma>("avx2", "Intel from Haswell, AMD from Zen");

}  // namespace prunetime
