#include "base/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace prunetime {

#if defined(__x86_64__)

namespace {

// CPUID leaf 7 (Intel's Software Developer's Manual, volume 2, "CPUID").
struct Features {
  unsigned leaf7_1_eax = 0;
  unsigned leaf7_0_ecx = 0;
  unsigned leaf7_0_edx = 0;
};

Features features() {
  Features found;
  unsigned a, b, c, d;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0) {
    found.leaf7_0_ecx = c;
    found.leaf7_0_edx = d;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) found.leaf7_1_eax = a;
  }
  return found;
}

bool bit(unsigned word, int index) { return (word >> index & 1U) != 0; }

// Linux lets no process touch tiles that has not asked (arch_prctl(2)); an older one knows neither tiles nor the question.
bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILE_DATA
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}

}  // namespace

bool cpu_has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool cpu_has_avx2_vnni() { return cpu_has_avx2() && bit(features().leaf7_1_eax, 4); }

bool cpu_has_avx512() {
  return cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool cpu_has_avx512_vnni() { return cpu_has_avx512() && bit(features().leaf7_0_ecx, 11); }

bool cpu_has_avx512_bf16() { return cpu_has_avx512_vnni() && bit(features().leaf7_1_eax, 5); }

bool cpu_has_amx() {
  const unsigned edx = features().leaf7_0_edx;
  const bool tiles = bit(edx, 24) && bit(edx, 22) && bit(edx, 25);  // AMX-TILE, AMX-BF16, AMX-INT8
  return tiles && cpu_has_avx512_bf16() && may_use_tiles();
}

void spin_pause() { __builtin_ia32_pause(); }

namespace {
constexpr std::uint64_t kFlush = (1U << 15) | (1U << 6);  // FTZ and DAZ of MXCSR
std::uint64_t float_mode() { return __builtin_ia32_stmxcsr(); }
void set_float_mode(std::uint64_t mode) { __builtin_ia32_ldmxcsr(static_cast<unsigned>(mode)); }
}  // namespace

#elif defined(__aarch64__)

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
