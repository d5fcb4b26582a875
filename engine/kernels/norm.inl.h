// Embedding and residual, each fused with its LayerNorm. Included once by each table, after math.inl.h.

namespace prunetime {
namespace {

// out[width] = LayerNorm of value(column) for whole vectors of columns. A row that overflowed comes out as NaN.
template <class Value>
inline void normalise(const LayerNorm& norm, float* out, const Value& value) {
  const float width = static_cast<float>(norm.width);
  Vec total = zero();
  for (int column = 0; column < norm.width; column += kLanes) {
    const Vec v = value(column);
    store(out + column, v);
    total = total + v;
  }
  const Vec mean = broadcast(sum(total) / width);
  Vec squares = zero();
  int column = 0;
  for (; column + kLanes <= norm.width; column += kLanes) {
    const Vec centred = load(out + column) - mean;
    squares = fma(centred, centred, squares);
  }
  if (column < norm.width) {
    const Vec centred = keep_first(load(out + column) - mean, norm.width - column);
    squares = fma(centred, centred, squares);
  }
  const float variance = sum(squares) / width;
  const Vec scale = broadcast(1.0F / __builtin_sqrtf(variance + norm.eps) + (variance - variance));
  for (column = 0; column < norm.width; column += kLanes) {
    const Vec centred = (load(out + column) - mean) * scale;
    store(out + column, fma(centred, load(norm.weight + column), load(norm.bias + column)));
  }
}

void embed(const Embedding& e, const LayerNorm& norm) {
  const std::ptrdiff_t stride = row_stride(norm.width);
  for (int token = 0; token < e.length; ++token) {
    const float* word = e.word + e.ids[token] * stride;
    const float* position = e.position + token * stride;
    const auto sum_of_two = [&](int column) { return load(word + column) + load(position + column); };
    if (e.token_type == nullptr) {
      normalise(norm, e.output + token * stride, sum_of_two);
    } else {
      const float* type = e.token_type + e.types[token] * stride;
      normalise(norm, e.output + token * stride, [&](int column) { return sum_of_two(column) + load(type + column); });
    }
  }
}

void add_and_norm(const Residual& r, const LayerNorm& norm) {
  const std::ptrdiff_t stride = row_stride(norm.width);
  for (int token = r.first_token; token < r.end_token; ++token) {
    float* hidden = r.hidden + token * stride;
    const float* update = r.update + token * r.update_stride;
    if (r.kept == nullptr) {
      normalise(norm, hidden, [&](int column) { return load(hidden + column) + load(update + column); });
    } else {
      normalise(norm, hidden, [&](int column) {
        constexpr std::uint32_t kAll = kLanes == 32 ? ~0U : (1U << kLanes) - 1U;
        const std::uint32_t lanes = r.kept[column / kPad] >> (column % kPad) & kAll;
        const Vec v = load(hidden + column) + expand(update, lanes);
        update += __builtin_popcount(lanes);
        return v;
      });
    }
  }
}

void encode(const Encode& e, const Encoded& to) {
  const std::ptrdiff_t to_bytes = row_bytes(to.width, to.precision);
  for (int i = e.first; i < e.end; ++i) {
    const float* from = e.from + (e.rows == nullptr ? i : e.rows[i]) * row_stride(to.width);
    std::byte* out = static_cast<std::byte*>(to.values) + i * to_bytes;
    switch (to.precision) {
      case Precision::fp32: __builtin_memcpy(out, from, static_cast<std::size_t>(to_bytes)); break;
      case Precision::bf16: encode_bf16(from, e.width, reinterpret_cast<std::uint16_t*>(out)); break;
      case Precision::int8:
        encode_u8(from, e.width, reinterpret_cast<std::uint8_t*>(out), to.scale + i, to.zero + i);
        break;
    }
  }
}

}  // namespace
}  // namespace prunetime
