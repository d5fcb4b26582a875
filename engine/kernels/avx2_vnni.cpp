// The table for AVX2 and FMA with AVX-VNNI.
#include "kernels/avx2.inl.h"

#include "kernels/table.inl.h"

const prunetime::Kernels prunetime::kAvx2VnniKernels = prunetime::table("avx2_vnni");
