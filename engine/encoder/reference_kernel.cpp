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
  Noise noise;
  std::vector<std::vector<float>> weights(kLayers, std::vector<float>(kWidth * kWidth));
  for (auto& weight : weights) {
    for (float& value : weight) value = noise.next() * 0.1F;
  }
  take(weights);
  arena_.commit();
  take(weights);
  for (std::ptrdiff_t i = 0; i < tokens_ * row_stride(kWidth); ++i) start_[i] = noise.next();
}

void ReferenceKernel::take(const std::vector<std::vector<float>>& weights) {
  const std::vector<float> bias(kWidth);
  layers_.clear();
  for (const auto& weight : weights) {
    const Source source{.outputs = kWidth, .inner = kWidth, .bias = bias.data(), .weight = weight.data()};
    layers_.push_back(pack(arena_, {source}, Precision::fp32, kernels_));
  }
  const auto activations = static_cast<std::size_t>(tokens_ * row_stride(kWidth));
  start_ = arena_.take<float>(activations);
  for (float*& buffer : buffers_) buffer = arena_.take<float>(activations);
}

float ReferenceKernel::run() {
  const FlushDenormals flush;
  float* input = start_;
  float* output = buffers_[0];
  for (const Linear& layer : layers_) {
    kernels_.gemm({.input = {Precision::fp32, input, kWidth, nullptr, nullptr},
                   .tokens = tokens_,
                   .matrix = layer.matrix,
                   .output = output,
                   .output_bytes = row_bytes(kWidth),
                   .output_precision = Precision::fp32,
                   .activation = Activation::gelu,
                   .first_strip = 0,
                   .end_strip = layer.matrix.strips()});
    input = output;
    output = output == buffers_[0] ? buffers_[1] : buffers_[0];
  }
  return std::accumulate(input, input + kWidth, 0.0F);
}

}  // namespace prunetime
