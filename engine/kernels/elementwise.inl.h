// Numbers times others, one by one. Included once by each table, after its vector type.

namespace prunetime {
namespace {

void rotate(const Rotation& r) {
  const int half = r.head_dim / 2;
  for (int i = 0; i < r.count; ++i) {
    float* left = r.rows + i * r.stride;
    float* right = left + half;
    const float* cosines = r.turns + static_cast<std::ptrdiff_t>(i) * r.head_dim;
    const float* sines = cosines + half;
    for (int j = 0; j < half; j += kLanes) {
      const int count = half - j;
      const Vec a = load_first(left + j, count), b = load_first(right + j, count);
      const Vec c = load_first(cosines + j, count), s = load_first(sines + j, count);
      store_first(left + j, a * c - b * s, count);
      store_first(right + j, b * c + a * s, count);
    }
  }
}

void gate(const Gate& g) {
  const std::ptrdiff_t output_stride = row_stride(g.width);
  for (int i = g.first; i < g.end; ++i) {
    const float* rows = g.rows + i * g.stride;
    const float* gates = g.gates + i * g.stride;
    float* output = g.output + i * output_stride;
    for (int column = 0; column < padded(g.width); column += kLanes) {
      store(output + column, load(rows + column) * load(gates + column));
    }
  }
}

}  // namespace
}  // namespace prunetime
