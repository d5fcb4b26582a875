// The embedding of tokens, fused with its LayerNorm. Included once by each table, after layer_norm.inl.h.

namespace prunetime {
namespace {

void embed(const Embedding& e, const LayerNorm& norm) {
  const std::ptrdiff_t stride = row_stride(norm.width);
  for_each_norm(0, e.length, [&]<int Rows>(int first) {
    const float *word[Rows], *type[Rows];
    const float* position = e.position + first * stride;
    for (int row = 0; row < Rows; ++row) {
      word[row] = e.word + e.ids[first + row] * stride;
      type[row] = e.token_type == nullptr ? nullptr : e.token_type + e.types[first + row] * stride;
    }
    const auto one = [&](int row, int column) { return load(word[row] + column); };
    const auto two = [&](int row, int column) { return one(row, column) + load(position + row * stride + column); };
    const auto three = [&](int row, int column) { return two(row, column) + load(type[row] + column); };
    float* output = e.output + first * stride;
    if (e.position == nullptr) {
      layer_norm<Rows>(norm, output, stride, one);
    } else if (e.token_type == nullptr) {
      layer_norm<Rows>(norm, output, stride, two);
    } else {
      layer_norm<Rows>(norm, output, stride, three);
    }
  });
}

}  // namespace
}  // namespace prunetime
