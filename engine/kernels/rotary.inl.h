// Rotary positions (RoFormer, arXiv 2104.09864). Included once by each table, after its vector type.

namespace prunetime {
namespace {

void rotate(const Rotation& r) {
  const int half = r.head_dim / 2;
  for (int i = 0; i < r.count; ++i) {
    float* left = r.rows + i * r.stride;
    float* right = left + half;
    const float* cosines = r.cos_sin + static_cast<std::ptrdiff_t>(i) * r.head_dim;
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

}  // namespace
}  // namespace prunetime
