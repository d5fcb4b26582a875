// The table for AVX-512 with VNNI.
#include "kernels/avx512.inl.h"

#include "kernels/table.inl.h"

const prunetime::Kernels prunetime::kAvx512VnniKernels = prunetime::table("avx512_vnni");
