// The gate of a gated FFN (GLU Variants, arXiv 2002.05202). Included once by each table, after its vector type.

namespace prunetime {
namespace {

void gate(const Gate& g) {
  const std::ptrdiff_t output_stride = row_stride(g.width);
  for (int i = g.first; i < g.end; ++i) {
    const float* neurons = g.neurons + i * g.stride;
    const float* gates = g.gates + i * g.stride;
    float* output = g.output + i * output_stride;
    for (int column = 0; column < padded(g.width); column += kLanes) {
      store(output + column, load(neurons + column) * load(gates + column));
    }
  }
}

}  // namespace
}  // namespace prunetime
