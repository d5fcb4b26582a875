// What this CPU can do, and how its floating point is set.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace prunetime {

// Instruction sets that some CPUs have and others lack, a bit each.
enum InstructionSet : std::uint32_t {
  kAvx2 = 1U << 0,
  kFma = 1U << 1,
  kAvxVnni = 1U << 2,
  kAvx512F = 1U << 3,
  kAvx512Bw = 1U << 4,
  kAvx512Dq = 1U << 5,
  kAvx512Vl = 1U << 6,
  kAvx512Vnni = 1U << 7,
  kAvx512Bf16 = 1U << 8,
  kAmxTile = 1U << 9,
  kAmxBf16 = 1U << 10,
  kAmxInt8 = 1U << 11
};
using InstructionSets = std::uint32_t;  // several of them

// Those that this process may use. The first call on a CPU with AMX asks Linux to let the process use tiles.
InstructionSets detect_instruction_sets();

// Their names, as Linux has them in /proc/cpuinfo.
std::vector<std::string> names_of(InstructionSets sets);

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
