// The table for AVX-512 with VNNI and BF16.
#include "kernels/avx512.inl.h"

#include "kernels/table.inl.h"

const prunetime::Kernels prunetime::kAvx512Bf16Kernels = prunetime::table("avx512_bf16");
