// The table for AVX-512 F, BW, DQ and VL.
#include "kernels/avx512.inl.h"

#include "kernels/table.inl.h"

const prunetime::Kernels prunetime::kAvx512Kernels = prunetime::table("avx512");
