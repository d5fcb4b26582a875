#include "encoder/forward.h"

namespace prunetime {

void ForwardPass::feed_forward(int index, const FfnLayer& layer) {
  const Matrix& output = layer.output.projection.matrix;
  const int strips = padded(layer.used_neurons) / layer.input.matrix.strip;  // also what is read beyond the neurons
  const Activation gelu = output.precision == Precision::fp32 ? Activation::gelu : Activation::rounded_gelu;
  const Tensor neurons = config_.gated ? gated_neurons(layer, strips, gelu) : activated_neurons(layer, strips, gelu);
  add_and_norm(index, true, layer.output, neurons);
}

// The neurons, GELU of the input matrix, as the output matrix reads them.
Tensor ForwardPass::activated_neurons(const FfnLayer& layer, int strips, Activation gelu) {
  const Matrix& output = layer.output.projection.matrix;
  const Precision written = output.precision == Precision::bf16 ? Precision::bf16 : Precision::fp32;
  const Tensor inner{written, w_.inner, output.inner, nullptr, nullptr};
  multiply(input_of(layer.input.matrix, input_rows()), tokens_, layer.input.matrix, gelu, inner, team_.share(strips));
  team_.sync();
  if (output.precision != Precision::int8) return inner;
  const Tensor input = input_of(output, w_.inner);
  const auto share = team_.share(tokens_);
  kernels_.quantise({w_.inner, nullptr, layer.used_neurons, share.first, share.end}, input);
  team_.sync();
  return input;
}

// The same of a family in which each neuron is multiplied by its gate.
Tensor ForwardPass::gated_neurons(const FfnLayer& layer, int strips, Activation gelu) {
  const Matrix& matrix = layer.input.matrix;
  const Matrix& output = layer.output.projection.matrix;
  const Tensor both{Precision::fp32, w_.inner, matrix.outputs, nullptr, nullptr};
  for (int part = 0; part < 2; ++part) {
    multiply(input_of(matrix, input_rows()), tokens_, matrix, part == 0 ? gelu : Activation::identity, both,
             share_of_part(matrix, 2, strips, part));
  }
  team_.sync();
  const auto share = team_.share(tokens_);
  kernels_.gate({.neurons = w_.inner,
                 .gates = w_.inner + matrix.outputs / 2,
                 .stride = row_stride(matrix.outputs),
                 .width = output.inner,
                 .output = w_.context,
                 .first = share.first,
                 .end = share.end});
  const Tensor input = input_of(output, w_.context);
  if (input.values != w_.context) {
    kernels_.quantise({w_.context, nullptr, layer.used_neurons, share.first, share.end}, input);
  }
  team_.sync();
  return input;
}

}  // namespace prunetime
