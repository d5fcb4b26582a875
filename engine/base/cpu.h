// What this CPU can do, and how its floating point is set.
#pragma once

#include <cstdint>

namespace prunetime {

#if defined(__x86_64__)
bool cpu_has_avx2();  // AVX2 and FMA
bool cpu_has_avx2_vnni();
bool cpu_has_avx512();  // AVX-512 F, BW, DQ and VL
bool cpu_has_avx512_vnni();
bool cpu_has_avx512_bf16();  // and VNNI
// AMX's tiles, BF16 and INT8, and the AVX-512 of above. The first call asks Linux to let this process use tiles.
bool cpu_has_amx();
#endif

// Tells the core that this thread is spinning.
void spin_pause();

// While it lives, denormal numbers are taken and given as zero on this thread: they cost hundreds of cycles each.
class FlushDenormals {
 public:
  FlushDenormals();
  ~FlushDenormals();
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  std::uint64_t before_;
};

}  // namespace prunetime
