// Which table of kernels runs on this CPU.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernels/kernels.h"

namespace prunetime {

// The tables of this build, slowest first.
std::vector<const Kernels*> all_kernels();

// Those of them that this CPU can run.
std::vector<const Kernels*> supported_kernels();

// Tables that stand in for an ISA, for tests: right and slow. Chosen by name only.
std::vector<const Kernels*> emulated_kernels();

// The table named `isa`, or, where that is empty, the one that the environment variable PRUNETIME_ISA names, or else
// the fastest. Throws Error for a name that is unknown or that this CPU cannot run.
const Kernels& choose_kernels(const std::string& isa);

}  // namespace prunetime
