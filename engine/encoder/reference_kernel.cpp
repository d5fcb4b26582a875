#include "encoder/reference_kernel.h"

#include <cstdint>
#include <numeric>
#include <string_view>

#include "base/cpu.h"

namespace prunetime {
namespace {

constexpr int kWidth = 512;
constexpr int kLayers = 4;

// Numbers between -1 and 1 from a linear congruential generator (Numerical Recipes' constants).
class Noise {
 public:
  float next() {
    state_ = state_ * 1664525U + 1013904223U;
    return static_cast<float>(static_cast<std::int32_t>(state_)) * 0x1p-31F;
  }

 private:
  std::uint32_t state_ = 1;
};

}  // namespace

ReferenceKernel::ReferenceKernel(const Kernels& kernels)
    : kernels_(kernels), tokens_(std::string_view(kernels.isa) == "portable" ? 4 : 12) {
  take();
  arena_.commit();
  take();
  Noise noise;
  std::vector<float> weight(static_cast<std::size_t>(kWidth) * kWidth);
  for (float* packed : weights_) {
    for (float& value : weight) value = noise.next() * 0.1F;
    kernels_.pack(weight.data(), kWidth, kWidth, packed);
  }
  for (std::ptrdiff_t i = 0; i < tokens_ * row_stride(kWidth); ++i) start_[i] = noise.next();
}

void ReferenceKernel::take() {
  weights_.clear();
  for (int layer = 0; layer < kLayers; ++layer) {
    weights_.push_back(arena_.take<float>(kernels_.packed_floats(kWidth, kWidth)));
  }
  bias_ = arena_.take<float>(kWidth);
  const auto activations = static_cast<std::size_t>(tokens_ * row_stride(kWidth));
  start_ = arena_.take<float>(activations);
  for (float*& buffer : buffers_) buffer = arena_.take<float>(activations);
}

float ReferenceKernel::run() {
  const FlushDenormals flush;
  const float* input = start_;
  float* output = buffers_[0];
  for (const float* packed : weights_) {
    kernels_.gemm({.input = input,
                   .input_stride = row_stride(kWidth),
                   .tokens = tokens_,
                   .inner = kWidth,
                   .packed = packed,
                   .bias = bias_,
                   .output = output,
                   .output_stride = row_stride(kWidth),
                   .first_panel = 0,
                   .end_panel = kernels_.panels(kWidth),
                   .activation = Activation::gelu});
    input = output;
    output = output == buffers_[0] ? buffers_[1] : buffers_[0];
  }
  return std::accumulate(input, input + kWidth, 0.0F);
}

}  // namespace prunetime
