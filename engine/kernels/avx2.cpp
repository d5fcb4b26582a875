// The table for AVX2 and FMA.
#include "kernels/avx2.inl.h"

#include "kernels/table.inl.h"

const prunetime::Kernels prunetime::kAvx2Kernels = prunetime::table("avx2");
