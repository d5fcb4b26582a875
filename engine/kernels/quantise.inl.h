// Dynamic quantisation: rows of floats become rows of the narrower numbers that a GEMM reads, by a scale and a zero point
// of each row. Every table writes the same numbers. Included once by each table, after its arithmetic.
//
// A row is read up to padded(width), where it holds zeros beyond its width. What is written reaches up to a multiple of
// 64 columns.

namespace prunetime {
namespace {

// The nearest bf16, ties to even; denormals become zeros and a NaN stays one.
inline void quantise_bf16(const float* row, int width, std::byte* out) {
  const int end = static_cast<int>(padded(width));
  for (int column = 0; column < end; column += 2 * kLanes) {
    store_bf16(out + column * Bf16::kBytes, load(row + column), load(row + column + kLanes));
  }
}

// The least and greatest of many floats and 0, by their bits: positive floats are ordered as signed integers, negative
// ones, the most negative first, as unsigned integers, and a NaN is beyond the infinity of its sign in either order.
struct Range {
  Ints greatest{};
  Words least{};

  inline void include(Vec v) {
    const Ints signed_bits = bits_of(v);
    const Words unsigned_bits = reinterpret_cast<Words>(v);
    greatest = signed_bits > greatest ? signed_bits : greatest;
    least = unsigned_bits > least ? unsigned_bits : least;
  }

  inline float maximum() const { return __builtin_bit_cast(float, greatest_bits(of_bits(greatest))); }

  inline float minimum() const {
    constexpr std::int32_t kSign = INT32_MIN;
    const std::int32_t bits = greatest_bits(of_bits(reinterpret_cast<Ints>(least) ^ kSign));
    return bits < 0 ? 0.0F : __builtin_bit_cast(float, bits ^ kSign);
  }
};

// x becomes q = zero + x / scale, both terms rounded to whole numbers, ties to even, and q to 0..255. The scale is the
// width of the range / 255, 1 for a range below 2^-100, and NaN where a value of the row is not finite.
inline void quantise_int8(const float* row, int width, const Range& range, std::byte* out, float* scale,
                          std::int32_t* zero_point) {
  const float minimum = range.minimum();
  const float extent = range.maximum() - minimum;
  const bool tiny = extent < 0x1p-100F;
  *scale = tiny ? 1.0F : extent / 255.0F + (extent - extent);
  const float inverse = tiny ? 0.0F : 255.0F / extent;
  const float rounded = (kRound - minimum * inverse) - kRound;
  const auto zero = rounded >= 0.0F && rounded <= 255.0F ? static_cast<std::int32_t>(rounded) : 0;  // else NaN
  *zero_point = Int8::kBytes == 1 ? zero : 0;
  const Vec factor = broadcast(inverse);
  const int end = static_cast<int>(padded(width));
  int column = 0;
  const auto next = [&] { return column < end ? load(row + column) * factor : Vec{}; };
  while (column < end) {
    std::byte* to = out + column * Int8::kBytes;
    Vec values[4];
    for (Vec& value : values) {
      value = next();
      column += kLanes;
    }
    store_int8(to, values[0], values[1], values[2], values[3], zero);
  }
}

inline void quantise_int8(const float* row, int width, std::byte* out, float* scale, std::int32_t* zero_point) {
  Range range;
  const int end = static_cast<int>(padded(width));
  for (int column = 0; column < end; column += kLanes) range.include(load(row + column));
  quantise_int8(row, width, range, out, scale, zero_point);
}

constexpr NumberBytes kNumberBytes{.bf16 = Bf16::kBytes, .int8 = Int8::kBytes};

void quantise(const Quantise& q, const Tensor& to) {
  const std::ptrdiff_t to_bytes = row_bytes(to.width, kNumberBytes.of(to.precision));
  for (int i = q.first; i < q.end; ++i) {
    const float* from = q.from + (q.rows == nullptr ? i : q.rows[i]) * row_stride(to.width);
    std::byte* out = static_cast<std::byte*>(to.values) + i * to_bytes;
    switch (to.precision) {
      case Precision::fp32: __builtin_memcpy(out, from, static_cast<std::size_t>(to_bytes)); break;
      case Precision::bf16: quantise_bf16(from, q.width, out); break;
      case Precision::int8: quantise_int8(from, q.width, out, to.scale + i, to.zero_point + i); break;
    }
  }
}

}  // namespace
}  // namespace prunetime
