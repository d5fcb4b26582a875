#include "kernels/dispatch.h"

#include <cstdlib>

#include "base/cpu.h"
#include "base/error.h"

namespace prunetime {

namespace {

// Whether this CPU can run a table.
bool runs(const Kernels* kernels) {
  static const InstructionSets present = detect_instruction_sets();
  return (kernels->required & ~present) == 0;
}

}  // namespace

std::vector<const Kernels*> all_kernels() {
  return {&kPortableKernels,
#if defined(PRUNETIME_X86_TABLES)
          &kAvx2Kernels, &kAvx2VnniKernels, &kAvx512Kernels, &kAvx512VnniKernels, &kAvx512Bf16Kernels, &kAmxKernels
#endif
  };
}

std::vector<const Kernels*> supported_kernels() {
  std::vector<const Kernels*> supported;
  for (const Kernels* kernels : all_kernels()) {
    if (runs(kernels)) supported.push_back(kernels);
  }
  return supported;
}

std::vector<const Kernels*> emulated_kernels() {
  std::vector<const Kernels*> emulated;
#if defined(PRUNETIME_X86_TABLES)
  if (runs(&kAmxEmulatedKernels)) emulated.push_back(&kAmxEmulatedKernels);
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
