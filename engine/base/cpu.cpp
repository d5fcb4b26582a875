#include "base/cpu.h"

#include <utility>

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

InstructionSets detect_instruction_sets() {
  InstructionSets found = 0;
  const auto add = [&](bool has, InstructionSets set) { found |= has ? set : 0; };
  add(__builtin_cpu_supports("avx2"), kAvx2);
  add(__builtin_cpu_supports("fma"), kFma);
  add(__builtin_cpu_supports("avx512f"), kAvx512F);
  add(__builtin_cpu_supports("avx512bw"), kAvx512Bw);
  add(__builtin_cpu_supports("avx512dq"), kAvx512Dq);
  add(__builtin_cpu_supports("avx512vl"), kAvx512Vl);
  const Features leaves = features();
  add(bit(leaves.leaf7_1_eax, 4), kAvxVnni);
  add(bit(leaves.leaf7_0_ecx, 11), kAvx512Vnni);
  add(bit(leaves.leaf7_1_eax, 5), kAvx512Bf16);
  if (bit(leaves.leaf7_0_edx, 24) && may_use_tiles()) {
    add(true, kAmxTile);
    add(bit(leaves.leaf7_0_edx, 22), kAmxBf16);
    add(bit(leaves.leaf7_0_edx, 25), kAmxInt8);
  }
  return found;
}

void spin_pause() { __builtin_ia32_pause(); }

namespace {
constexpr std::uint64_t kFlush = (1U << 15) | (1U << 6);  // FTZ and DAZ of MXCSR
std::uint64_t float_mode() { return __builtin_ia32_stmxcsr(); }
void set_float_mode(std::uint64_t mode) { __builtin_ia32_ldmxcsr(static_cast<unsigned>(mode)); }
}  // namespace

#elif defined(__aarch64__)

InstructionSets detect_instruction_sets() { return 0; }

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

InstructionSets detect_instruction_sets() { return 0; }

void spin_pause() {}

namespace {
constexpr std::uint64_t kFlush = 0;
std::uint64_t float_mode() { return 0; }
void set_float_mode(std::uint64_t) {}
}  // namespace

#endif

std::vector<std::string> names_of(InstructionSets sets) {
  constexpr std::pair<InstructionSet, const char*> kNames[] = {
      {kAvx2, "avx2"},           {kFma, "fma"},                 {kAvxVnni, "avx_vnni"},       {kAvx512F, "avx512f"},
      {kAvx512Bw, "avx512bw"},   {kAvx512Dq, "avx512dq"},       {kAvx512Vl, "avx512vl"},      {kAvx512Vnni, "avx512_vnni"},
      {kAvx512Bf16, "avx512_bf16"}, {kAmxTile, "amx_tile"},     {kAmxBf16, "amx_bf16"},       {kAmxInt8, "amx_int8"}};
  std::vector<std::string> names;
  for (const auto& [set, name] : kNames) {
    if ((sets & set) != 0) names.emplace_back(name);
  }
  return names;
}

FlushDenormals::FlushDenormals() : before_(float_mode()) { set_float_mode(before_ | kFlush); }
FlushDenormals::~FlushDenormals() { set_float_mode(before_); }

}  // namespace prunetime
