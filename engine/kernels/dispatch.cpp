#include "kernels/dispatch.h"

#include <cstdlib>

#include "base/cpu.h"
#include "base/error.h"

namespace prunetime {

std::vector<const Kernels*> supported_kernels() {
  std::vector<const Kernels*> supported{&kPortableKernels};
#if defined(PRUNETIME_X86_TABLES)
  if (cpu_has_avx2()) supported.push_back(&kAvx2Kernels);
  if (cpu_has_avx2_vnni()) supported.push_back(&kAvx2VnniKernels);
  if (cpu_has_avx512()) supported.push_back(&kAvx512Kernels);
  if (cpu_has_avx512_vnni()) supported.push_back(&kAvx512VnniKernels);
  if (cpu_has_avx512_bf16()) supported.push_back(&kAvx512Bf16Kernels);
  if (cpu_has_amx()) supported.push_back(&kAmxKernels);
#endif
  return supported;
}

std::vector<const Kernels*> emulated_kernels() {
  std::vector<const Kernels*> emulated;
#if defined(PRUNETIME_X86_TABLES)
  if (cpu_has_avx512_bf16()) emulated.push_back(&kAmxEmulatedKernels);
#endif
  return emulated;
}

const Kernels& choose_kernels(const std::string& isa) {
  const auto supported = supported_kernels();
  const char* forced = std::getenv("PRUNETIME_ISA");
  const bool from_environment = isa.empty() && forced != nullptr && *forced != '\0';
  const std::string name = from_environment ? forced : isa;
  if (name.empty()) return *supported.back();
  std::string names;
  for (const Kernels* kernels : supported) {
    if (name == kernels->isa) return *kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->isa);
  }
  for (const Kernels* kernels : emulated_kernels()) {
    if (name == kernels->isa) return *kernels;
  }
  throw Error((from_environment ? "PRUNETIME_ISA is '" : "isa is '") + name + "'; this CPU runs " + names);
}

}  // namespace prunetime
