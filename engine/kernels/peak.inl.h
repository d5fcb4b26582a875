// The ceilings of a roofline: what the arithmetic and the vector code of a table reach where nothing holds them up, with
// data in the L1 cache. Included once by each table, after all the rest. A table with other instructions for a precision
// has a Kernels::peak of its own that asks this one for the rest.

namespace prunetime {
namespace {

constexpr int kPeakRows = 2;
constexpr int kPeakWidth = 768;
constexpr int kPeakKeys = 64;

// For the compiler, `data` is read and written here.
inline void touch(void* data) { asm volatile("" : : "r"(data) : "memory"); }

template <class Arithmetic>
std::int64_t multiply_peak(int rounds) {
  constexpr int kRows = Arithmetic::kRows;
  constexpr int kGroups = 96;
  constexpr int kTimes = 8;
  constexpr std::ptrdiff_t kRowBytes = row_bytes(kGroups);
  constexpr int kSomeNumber = Arithmetic::kWholeNumbers ? 1 : 0x3c;  // in every byte: 0.01 in bf16 and fp32
  alignas(Vec) std::byte left[kRows * kRowBytes];
  alignas(Vec) std::uint32_t right[kGroups * kPanel];
  alignas(Vec) float sums[kRows * kPanel];
  __builtin_memset(left, kSomeNumber, sizeof left);
  __builtin_memset(right, kSomeNumber, sizeof right);
  for (int round = 0; round < rounds; ++round) {
    Tile<Arithmetic, kRows, 1, kPanelVectors> tile{};
    for (int time = 0; time < kTimes; ++time) {
      touch(left);
      tile.multiply({left, kRowBytes, kGroupBytes}, right, kPanel, 0, kGroups);
    }
    PRUNETIME_UNROLL
    for (int row = 0; row < kRows; ++row) {
      PRUNETIME_UNROLL
      for (int v = 0; v < kPanelVectors; ++v) {
        store(sums + row * kPanel + v * kLanes, __builtin_bit_cast(Vec, tile.sums[row][v]));
      }
    }
    touch(sums);
  }
  return std::int64_t{rounds} * kTimes * kRows * kPanel * kGroups * (kGroupBytes / Arithmetic::kBytes);
}

std::int64_t gelu_peak(Precision written, int rounds) {
  alignas(Vec) float sums[room_for(kTileRows * kPanel)] = {};
  alignas(Vec) float output[kTileRows * kPanel];
  const Gemm gemm{.input = {},
                  .tokens = kTileRows,
                  .matrix = {},
                  .output = output,
                  .output_bytes = kPanel * kNumberBytes.of(written),
                  .output_precision = written,
                  .activation = written == Precision::fp32 ? Activation::gelu : Activation::rounded_gelu,
                  .first_strip = 0,
                  .end_strip = 1};
  for (int round = 0; round < rounds; ++round) {
    write_tile(gemm, sums, 0, 0, kTileRows, kPanel);
    touch(output);
  }
  return std::int64_t{rounds} * kTileRows * kPanel;
}

std::int64_t softmax_peak(int rounds) {
  constexpr int kWidth = kLanes;
  constexpr float kScale = 0.125F;  // small, so that exponentials of exponentials stay small
  alignas(Vec) float scratch[(kPeakKeys + kWidth) * kQueries + (2 * kWidth + kLanes) * kPeakKeys] = {};
  Attention attention{};
  attention.queries = kQueries;
  attention.length = kPeakKeys;
  attention.head_dim = kWidth;
  attention.scale = kScale;
  const Block<Float32, 2> block{attention, AttentionScratch<Float32>(attention, scratch), kQueries};
  for (int round = 0; round < rounds; ++round) {
    Softmax<2> lanes{};
    block.exponentiate(lanes);
    touch(scratch);
    touch(&lanes);
  }
  return std::int64_t{rounds} * kPeakKeys * kQueries;
}

std::int64_t norm_peak(int rounds) {
  alignas(Vec) float hidden[kPeakRows * row_stride(kPeakWidth)] = {};
  alignas(Vec) float update[kPeakRows * row_stride(kPeakWidth)] = {};
  alignas(Vec) float weight[kPeakWidth] = {};
  alignas(Vec) float bias[kPeakWidth] = {};
  for (int round = 0; round < rounds; ++round) {
    add_and_norm({.hidden = hidden,
                  .normed = hidden,
                  .update = update,
                  .update_stride = row_stride(kPeakWidth),
                  .kept = nullptr,
                  .first_token = 0,
                  .end_token = kPeakRows},
                 {weight, bias, kPeakWidth, 1e-12F});
    touch(hidden);
  }
  return std::int64_t{rounds} * kPeakRows * kPeakWidth;
}

std::int64_t quantise_peak(Precision precision, int rounds) {
  alignas(Vec) float from[kPeakRows * row_stride(kPeakWidth)] = {};
  alignas(Vec) std::byte to[kPeakRows * row_bytes(kPeakWidth)];
  float scale[kPeakRows];
  std::int32_t zero_point[kPeakRows];
  for (int round = 0; round < rounds; ++round) {
    quantise({from, nullptr, kPeakWidth, 0, kPeakRows}, {precision, to, kPeakWidth, scale, zero_point});
    touch(to);
  }
  return std::int64_t{rounds} * kPeakRows * kPeakWidth;
}

std::int64_t peak(Work work, int rounds) {
  switch (work) {
    case Work::multiply_fp32: return multiply_peak<Fp32>(rounds);
    case Work::multiply_bf16: return multiply_peak<Bf16>(rounds);
    case Work::multiply_int8: return multiply_peak<Int8>(rounds);
    case Work::gelu_fp32: return gelu_peak(Precision::fp32, rounds);
    case Work::gelu_bf16: return gelu_peak(Precision::bf16, rounds);
    case Work::softmax: return softmax_peak(rounds);
    case Work::norm: return norm_peak(rounds);
    case Work::quantise_bf16: return quantise_peak(Precision::bf16, rounds);
    case Work::quantise_int8: return quantise_peak(Precision::int8, rounds);
  }
  return 0;
}

std::int64_t read(const float* from, std::int64_t floats, int rounds) {
  constexpr int kSums = 8;
  Ints sums[kSums] = {};
  for (int round = 0; round < rounds; ++round) {
    touch(nullptr);
    for (std::int64_t at = 0; at < floats; at += kSums * kLanes) {
      PRUNETIME_UNROLL
      for (int i = 0; i < kSums; ++i) sums[i] = sums[i] | bits_of(load(from + at + i * kLanes));
    }
  }
  Ints all{};
  for (const Ints sum : sums) all = all | sum;
  touch(&all);
  return rounds * floats * static_cast<std::int64_t>(sizeof(float));
}

}  // namespace
}  // namespace prunetime
