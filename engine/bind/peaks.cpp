#include "bind/peaks.h"

#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <string>

#include "base/arena.h"
#include "base/cpu.h"
#include "base/error.h"
#include "kernels/dispatch.h"

namespace nb = nanobind;

namespace prunetime {
namespace {

constexpr std::int64_t kFloatsMultiple = 1024;
constexpr std::int64_t kMostBytes = std::int64_t{1} << 32;

constexpr std::pair<const char*, Work> kWorks[] = {
    {"multiply_fp32", Work::multiply_fp32}, {"multiply_bf16", Work::multiply_bf16},
    {"multiply_int8", Work::multiply_int8}, {"gelu_fp32", Work::gelu_fp32},
    {"gelu_bf16", Work::gelu_bf16},         {"softmax", Work::softmax},
    {"norm", Work::norm},                   {"encode_bf16", Work::quantise_bf16},
    {"encode_int8", Work::quantise_int8}};

// What run(rounds), which returns how much it did, does in a second: the fastest of many short goes, because a
// neighbour or an interrupt only ever takes time.
template <class Run>
double per_second(const Run& run) {
  using Seconds = std::chrono::duration<double>;
  constexpr int kGoes = 24;
  constexpr Seconds kShortest{5e-4};
  double fastest = 0.0;
  for (int go = 0, rounds = 1; go < kGoes;) {
    const auto start = std::chrono::steady_clock::now();
    const auto done = static_cast<double>(run(rounds));
    const Seconds taken = std::chrono::steady_clock::now() - start;
    if (taken < kShortest) {
      rounds *= 2;
      continue;
    }
    fastest = std::max(fastest, done / taken.count());
    ++go;
  }
  return fastest;
}

std::map<std::string, double> peaks(const std::string& isa) {
  const Kernels& kernels = choose_kernels(isa);
  const nb::gil_scoped_release release;
  const FlushDenormals flush;
  std::map<std::string, double> found;
  for (const auto& [name, work] : kWorks) {
    found[name] = per_second([&, work = work](int rounds) { return kernels.peak(work, rounds); });
  }
  kernels.release();
  return found;
}

double read_peak(const std::string& isa, std::int64_t bytes) {
  const Kernels& kernels = choose_kernels(isa);
  const std::int64_t floats = bytes / static_cast<std::int64_t>(sizeof(float)) / kFloatsMultiple * kFloatsMultiple;
  if (floats < 1 || bytes > kMostBytes) {
    throw Error("read_peak of " + std::to_string(bytes) + " bytes; it must be from 4096 to 2^32");
  }
  const nb::gil_scoped_release release;
  Arena arena;
  arena.take<float>(static_cast<std::size_t>(floats));
  arena.commit();
  auto* data = arena.take<float>(static_cast<std::size_t>(floats));
  std::fill_n(data, floats, 1.0F);  // until it is written, all of it may be one and the same page
  return per_second([&](int rounds) { return kernels.read(data, floats, rounds); });
}

}  // namespace

void bind_peaks(nb::module_& m) {
  m.def("peaks", &peaks, nb::arg("isa"), "Multiply-adds, or numbers, per second of every kind of work.");
  m.def("read_peak", &read_peak, nb::arg("isa"), nb::arg("bytes"), "Bytes per second of reading so many, in turn.");
}

}  // namespace prunetime
