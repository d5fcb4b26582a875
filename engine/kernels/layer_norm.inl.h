// LayerNorm (arXiv 1607.06450), fused with the residual that comes before it ("Add & Norm" of arXiv 1706.03762). Included
// once by each table, after its vector type.

namespace prunetime {
namespace {

// Rows at once: each waits four times for a sum, a division or a root, so that others have something to do meanwhile.
constexpr int kNormRows = 4;

// out[Rows][width] = LayerNorm of value(row, column), which is called for whole vectors of columns from left to right.
// A row that overflowed comes out as NaN.
template <int Rows, class Value>
inline __attribute__((always_inline)) void layer_norm(const LayerNorm norm, float* out, std::ptrdiff_t stride,
                                                      const Value& value) {
  constexpr int kStep = 2 * kLanes;
  static_assert(kPad % kStep == 0);
  const int end = static_cast<int>(padded(norm.width));
  const float width = static_cast<float>(norm.width);
  Vec sums[Rows][2] = {};
  for (int column = 0; column < end; column += kStep) {
    PRUNETIME_UNROLL
    for (int row = 0; row < Rows; ++row) {
      PRUNETIME_UNROLL
      for (int i = 0; i < 2; ++i) {
        const Vec v = value(row, column + i * kLanes);
        store(out + row * stride + column + i * kLanes, v);
        sums[row][i] = sums[row][i] + v;
      }
    }
  }
  Vec mean[Rows], squares[Rows][2] = {}, scale[Rows];
  for (int row = 0; row < Rows; ++row) mean[row] = broadcast(sum(sums[row][0] + sums[row][1]) / width);
  const auto add_squares = [&](int column, int count) __attribute__((always_inline)) {
    PRUNETIME_UNROLL
    for (int row = 0; row < Rows; ++row) {
      PRUNETIME_UNROLL
      for (int i = 0; i < 2; ++i) {
        Vec centred = load(out + row * stride + column + i * kLanes) - mean[row];
        if (count < kStep) centred = keep_first(centred, count - i * kLanes);
        squares[row][i] = fma(centred, centred, squares[row][i]);
      }
    }
  };
  int column = 0;
  for (; column + kStep <= norm.width; column += kStep) add_squares(column, kStep);
  if (column < norm.width) add_squares(column, norm.width - column);
  for (int row = 0; row < Rows; ++row) {
    const float variance = sum(squares[row][0] + squares[row][1]) / width;
    scale[row] = broadcast(1.0F / __builtin_sqrtf(variance + norm.eps) + (variance - variance));
  }
  for (column = 0; column < end; column += kStep) {
    Vec weight[2], bias[2];
    PRUNETIME_UNROLL
    for (int i = 0; i < 2; ++i) {
      weight[i] = load(norm.weight + column + i * kLanes);
      bias[i] = load(norm.bias + column + i * kLanes);
    }
    PRUNETIME_UNROLL
    for (int row = 0; row < Rows; ++row) {
      PRUNETIME_UNROLL
      for (int i = 0; i < 2; ++i) {
        float* place = out + row * stride + column + i * kLanes;
        store(place, fma((load(place) - mean[row]) * scale[row], weight[i], bias[i]));
      }
    }
  }
}

// use.template operator()<rows>(first) for all rows from `first` to `end`.
template <class Use>
inline __attribute__((always_inline)) void for_each_norm(int first, int end, const Use& use) {
  for (; first + kNormRows <= end; first += kNormRows) use.template operator()<kNormRows>(first);
  for (; first < end; ++first) use.template operator()<1>(first);
}

// `update(row, column)` is what is added to the rows from `first`, called as the values of layer_norm are.
template <int Rows, class Update>
inline __attribute__((always_inline)) void add_and_layer_norm(const Residual& r, const LayerNorm& norm, int first,
                                                              const Update& update) {
  const std::ptrdiff_t stride = row_stride(norm.width);
  float* hidden = r.hidden + first * stride;
  const auto sum_of = [&](int row, int column) { return load(hidden + row * stride + column) + update(row, column); };
  if (r.normed == r.hidden) {
    layer_norm<Rows>(norm, hidden, stride, sum_of);
  } else {
    layer_norm<Rows>(norm, r.normed + first * stride, stride, [&](int row, int column) {
      const Vec v = sum_of(row, column);
      store(hidden + row * stride + column, v);
      return v;
    });
  }
}

void add_and_norm(const Residual& r, const LayerNorm& norm) {
  const std::ptrdiff_t update_stride = r.update_stride;
  const std::uint32_t* kept = r.kept;
  for_each_norm(r.first_token, r.end_token, [&]<int Rows>(int first) {
    const float* update = r.update + first * update_stride;
    if (r.update == nullptr) {
      const std::ptrdiff_t stride = row_stride(norm.width);
      const float* hidden = r.hidden + first * stride;
      layer_norm<Rows>(norm, r.normed + first * stride, stride,
                       [=](int row, int column) { return load(hidden + row * stride + column); });
    } else if (kept == nullptr) {
      add_and_layer_norm<Rows>(r, norm, first,
                               [=](int row, int column) { return load(update + row * update_stride + column); });
    } else {
      std::ptrdiff_t read[Rows] = {};
      add_and_layer_norm<Rows>(r, norm, first, [&](int row, int column) {
        constexpr std::uint32_t kAll = kLanes == 32 ? ~0U : (1U << kLanes) - 1U;
        const std::uint32_t lanes = kept[column / kPad] >> (column % kPad) & kAll;
        const Vec v = expand(update + row * update_stride + read[row], lanes);
        read[row] += __builtin_popcount(lanes);
        return v;
      });
    }
  });
}

}  // namespace
}  // namespace prunetime
