// Attention of one head of one sequence. Queries lie across the lanes, so that the softmax runs down each lane: no
// sums across a vector, and a lane without a query needs no mask. Included once by each table, after gemm.inl.h.

namespace prunetime {
namespace {

std::size_t attention_scratch_floats(int longest, int head_dim) {
  return static_cast<std::size_t>(longest + head_dim) * kPanel;
}

// out[rows][Vectors] = left right, where right has `inner` rows of kPanel.
template <int Vectors>
inline void multiply_panel(Left left, int rows, const float* right, int inner, float* out) {
  for_each_tile<kTileRows>(rows, [&]<int Rows>(int first) {
    Tile<Fp32, Rows, 1, Vectors> tile{};
    tile.multiply({left.values + first * left.row_bytes, left.row_bytes, left.inner_bytes},
                  reinterpret_cast<const std::uint32_t*>(right), kPanel, 0, inner);
    for (int row = 0; row < Rows; ++row) {
      for (int v = 0; v < Vectors; ++v) store(out + (first + row) * kPanel + v * kLanes, tile.sums[row][v]);
    }
  });
}

// scores[keys][lane] becomes e^(score - greatest of the lane); returns 1 / the lane's sum.
inline Vec exponentiate(float* scores, int keys) {
  Vec greatest = load(scores);
  Vec least = greatest;
  for (int key = 1; key < keys; ++key) {
    const Vec score = load(scores + key * kPanel);
    greatest = max(greatest, score);
    least = min(least, score);
  }
  Vec total = least - least;  // 0, or NaN where a score overflowed to minus infinity
  for (int key = 0; key < keys; ++key) {
    const Vec e = exp_of_nonpositive(load(scores + key * kPanel) - greatest);
    store(scores + key * kPanel, e);
    total = total + e;
  }
  return 1.0F / total;
}

// Adds what one vector of queries attended to, every lane's probability being its score times `reciprocal`.
inline void receive(const float* scores, Vec reciprocal, const Attention& a) {
  for (int key = 0; key < a.length; ++key) a.received[key] += sum(load(scores + key * kPanel) * reciprocal);
}

template <int Vectors>
void attend(const Attention& a, int first, int queries, float* scratch) {
  float* scores = scratch;                                                     // [length][kPanel]
  float* panel = scratch + static_cast<std::ptrdiff_t>(a.length) * kPanel;     // [head_dim][kPanel]
  for (int lane = 0; lane < queries; ++lane) {
    const float* query = a.query + (first + lane) * a.stride;
    for (int d = 0; d < a.head_dim; ++d) panel[d * kPanel + lane] = query[d] * a.scale;
  }
  for (int d = 0; d < a.head_dim; ++d) {
    for (int lane = queries; lane < Vectors * kLanes; ++lane) panel[d * kPanel + lane] = 0.0F;
  }
  const std::ptrdiff_t row = a.stride * static_cast<std::ptrdiff_t>(sizeof(float));
  multiply_panel<Vectors>({reinterpret_cast<const std::byte*>(a.key), row, sizeof(float)}, a.length, panel, a.head_dim,
                          scores);
  Vec reciprocal[Vectors];
  for (int v = 0; v < Vectors; ++v) {
    reciprocal[v] = exponentiate(scores + v * kLanes, a.length);
    if (a.received != nullptr) receive(scores + v * kLanes, keep_first(reciprocal[v], queries - v * kLanes), a);
  }
  multiply_panel<Vectors>({reinterpret_cast<const std::byte*>(a.value), sizeof(float), row}, a.head_dim, scores,
                          a.length, panel);
  for (int d = 0; d < a.head_dim; ++d) {
    for (int v = 0; v < Vectors; ++v) {
      float* place = panel + d * kPanel + v * kLanes;
      store(place, load(place) * reciprocal[v]);
    }
  }
  for (int lane = 0; lane < queries; ++lane) {
    float* context = a.context + (first + lane) * a.context_stride;
    for (int d = 0; d < a.head_dim; ++d) context[d] = panel[d * kPanel + lane];
  }
}

void attention(const Attention& a, float* scratch) {
  for (int key = 0; a.received != nullptr && key < a.length; ++key) a.received[key] = 0.0F;
  for (int first = 0; first < a.queries; first += kPanel) {
    const int queries = a.queries - first < kPanel ? a.queries - first : kPanel;
    if (queries > kLanes) {
      attend<2>(a, first, queries, scratch);
    } else {
      attend<1>(a, first, queries, scratch);
    }
  }
}

}  // namespace
}  // namespace prunetime
