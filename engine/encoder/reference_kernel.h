// A unit of time: a fixed piece of work that feels clock and caches as an encoder does.
#pragma once

#include <vector>

#include "base/arena.h"
#include "encoder/matrix.h"
#include "kernels/kernels.h"

namespace prunetime {

// Four 512 x 512 layers with GELU, 4 MiB of weights, one thread. It must stay as it is: recorded profiles count in it.
class ReferenceKernel {
 public:
  explicit ReferenceKernel(const Kernels& kernels);

  // Does the work once; always returns the same finite number for one table of kernels.
  float run();
  const char* isa() const { return kernels_.isa; }

 private:
  void take(const std::vector<std::vector<float>>& weights);

  const Kernels& kernels_;
  const int tokens_;
  Arena arena_;
  std::vector<Linear> layers_;
  float* start_ = nullptr;
  float* buffers_[2] = {};
};

}  // namespace prunetime
