#include "base/cpu.h"

namespace prunetime {

#if defined(__x86_64__)

bool cpu_has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool cpu_has_avx512() {
  return cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

void spin_pause() { __builtin_ia32_pause(); }

namespace {
constexpr std::uint64_t kFlush = (1U << 15) | (1U << 6);  // FTZ and DAZ of MXCSR
std::uint64_t float_mode() { return __builtin_ia32_stmxcsr(); }
void set_float_mode(std::uint64_t mode) { __builtin_ia32_ldmxcsr(static_cast<unsigned>(mode)); }
}  // namespace

#elif defined(__aarch64__)

bool cpu_has_avx2() { return false; }
bool cpu_has_avx512() { return false; }
void spin_pause() { asm volatile("yield"); }

namespace {
constexpr std::uint64_t kFlush = std::uint64_t{1} << 24;  // FZ of FPCR
std::uint64_t float_mode() {
  std::uint64_t mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
void set_float_mode(std::uint64_t mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
}  // namespace

#else

bool cpu_has_avx2() { return false; }
bool cpu_has_avx512() { return false; }
void spin_pause() {}

namespace {
constexpr std::uint64_t kFlush = 0;
std::uint64_t float_mode() { return 0; }
void set_float_mode(std::uint64_t) {}
}  // namespace

#endif

FlushDenormals::FlushDenormals() : before_(float_mode()) { set_float_mode(before_ | kFlush); }
FlushDenormals::~FlushDenormals() { set_float_mode(before_); }

}  // namespace prunetime
