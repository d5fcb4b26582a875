#include "encoder/matrix.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <string>

#include "base/error.h"

namespace prunetime {
namespace {

constexpr float kLargestByte = 127.0F;
constexpr int kLongestInt8 = 1 << 16;  // 255 * 127 * 2^16 still fits the 32 bits of a sum

int groups_of(int width, int group_size) { return (width + group_size - 1) / group_size; }

// Which blocks of every strip are kept.
struct Pattern {
  int strip = kPad;
  int groups = 0;  // of a block
  bool dense = true;
  std::vector<std::vector<std::int32_t>> starts;  // of every strip's blocks
};

// Blocks that cut through a group are coarsened to whole groups.
Pattern pattern_of(const std::vector<Source>& sources, int group_size, int groups_multiple) {
  Pattern pattern;
  const int inner_groups = groups_of(sources[0].inner, group_size);
  int columns = kPad;
  for (const Source& source : sources) {
    if (!source.sparse) continue;
    pattern.dense = false;
    pattern.strip = std::min(pattern.strip, source.block_rows);
    columns = std::min(columns, source.block_columns);
  }
  pattern.groups = pattern.dense ? (inner_groups + groups_multiple - 1) / groups_multiple * groups_multiple
                                 : std::max(1, columns / group_size);
  const int units = (inner_groups + pattern.groups - 1) / pattern.groups;
  const int unit_columns = pattern.groups * group_size;
  for (const Source& source : sources) {
    for (int first = 0; first < padded(source.outputs); first += pattern.strip) {
      std::vector<bool> keeps(static_cast<std::size_t>(units), !source.sparse);
      for (int i = 0; source.sparse && i < source.kept; ++i) {
        const int row = source.block_index[i] / source.column_blocks() * source.block_rows;
        if (first < row || first >= row + source.block_rows) continue;
        const int column = source.block_index[i] % source.column_blocks() * source.block_columns;
        const int end = std::min(column + source.block_columns, source.inner);
        for (int unit = column / unit_columns; unit * unit_columns < end; ++unit) {
          keeps[static_cast<std::size_t>(unit)] = true;
        }
      }
      auto& starts = pattern.starts.emplace_back();
      for (int unit = 0; unit < units; ++unit) {
        if (keeps[static_cast<std::size_t>(unit)]) starts.push_back(unit * pattern.groups);
      }
    }
  }
  return pattern;
}

// The weights [inner] of one output of a source; `room` holds them where the source has blocks.
const float* weights_of(const Source& source, int output, std::vector<float>& room) {
  if (source.weight != nullptr) return source.weight + static_cast<std::ptrdiff_t>(output) * source.inner;
  room.assign(static_cast<std::size_t>(source.inner), 0.0F);
  const std::int64_t column_blocks = source.column_blocks(), row_block = output / source.block_rows;
  const std::int32_t* end = source.block_index + source.kept;
  const std::int32_t* block = std::lower_bound(source.block_index, end, row_block * column_blocks);
  for (; block < end && *block / column_blocks == row_block; ++block) {
    const int column = static_cast<int>(*block % column_blocks) * source.block_columns;
    const std::ptrdiff_t row = (block - source.block_index) * source.block_rows + output % source.block_rows;
    std::copy_n(source.blocks + row * source.block_columns, std::min(source.block_columns, source.inner - column),
                room.data() + column);
  }
  return room.data();
}

std::uint32_t bf16_of(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // ties to even; weights are finite
}

// Compared as integers, as whose bits the magnitudes of finite numbers are ordered: many at once.
float largest_magnitude(const float* values, int count) {
  std::int32_t largest = 0;
  for (int i = 0; i < count; ++i) largest = std::max(largest, std::bit_cast<std::int32_t>(values[i]) & INT32_MAX);
  return std::bit_cast<float>(largest);
}

// A whole number from -127 to 127, ties to even.
std::uint32_t rounded(float value) {
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to a whole number, kept in the low bits
  return std::bit_cast<std::uint32_t>(value + kRound) - std::bit_cast<std::uint32_t>(kRound);
}

// `count` groups of `weights`, of which there are `valid` and zeros beyond, to every `stride`-th of `to`.
template <int Bytes, class Number>
void write_groups(const float* weights, int valid, int count, std::uint32_t* to, std::ptrdiff_t stride,
                  const Number& number) {
  constexpr int kSize = kGroupBytes / Bytes;
  constexpr std::uint32_t kMask = 0xffffffffU >> (32 - 8 * Bytes);
  const auto group = [&](const float* from, int size) {
    std::uint32_t bits = 0;
    for (int i = 0; i < size; ++i) bits |= (number(from[i]) & kMask) << (8 * Bytes * i);
    return bits;
  };
  const int whole = std::min(valid / kSize, count);
  for (int i = 0; i < whole; ++i) to[i * stride] = group(weights + i * kSize, kSize);
  if (whole < count && valid > whole * kSize) to[whole * stride] = group(weights + whole * kSize, valid % kSize);
}

// The same in a precision, a number in `bytes`; int8 weights are multiplied by `inverse_scale` first.
void write_row(const float* weights, int valid, int count, std::uint32_t* to, std::ptrdiff_t stride, Precision precision,
               int bytes, float inverse_scale) {
  const auto write = [&]<int Bytes>(const auto& number) { write_groups<Bytes>(weights, valid, count, to, stride, number); };
  const auto byte = [=](float weight) { return rounded(weight * inverse_scale); };
  switch (precision) {
    case Precision::fp32: return write.operator()<4>([](float weight) { return std::bit_cast<std::uint32_t>(weight); });
    case Precision::bf16:
      if (bytes == 2) return write.operator()<2>(bf16_of);
      return write.operator()<4>([](float weight) { return bf16_of(weight) << 16; });
    case Precision::int8: return bytes == 1 ? write.operator()<1>(byte) : write.operator()<2>(byte);
  }
}

// Of the int8 numbers of a group.
std::int32_t sum_of(std::uint32_t group, int group_size) {
  if (group_size == 2) return static_cast<std::int16_t>(group) + static_cast<std::int16_t>(group >> 16);
  const auto bytes = std::bit_cast<std::array<std::int8_t, 4>>(group);
  return bytes[0] + bytes[1] + bytes[2] + bytes[3];
}

// Fills `sums` with the sum of every output's bytes over what is multiplied.
void sum_bytes(const Matrix& m, int panel, std::int32_t* sums) {
  std::fill_n(sums, padded(m.outputs), 0);
  for (int strip = 0; strip < m.strips(); ++strip) {
    const int stored = m.first_block[strip + 1] - m.first_block[strip];
    for (int column = 0; column < m.strip; column += panel) {
      const std::uint32_t* values =
          m.values + (static_cast<std::ptrdiff_t>(m.first_block[strip]) * m.strip + stored * column) * m.stored_groups;
      for (int block = m.first_block[strip]; block < m.end_block[strip]; ++block) {
        for (int item = 0; item < m.groups * panel; ++item) {
          sums[strip * m.strip + column + item % panel] += sum_of(values[item], m.group_size);
        }
        values += m.stored_groups * panel;
      }
    }
  }
}

}  // namespace

void Linear::check_inner(int inner) const {
  const int whole = matrix.dense ? matrix.group_size : matrix.group_size * matrix.stored_groups;
  if (inner < matrix.inner && inner % whole != 0) {
    throw Error("a prefix of " + std::to_string(inner) + " of " + std::to_string(matrix.inner) +
                " inputs cuts a block of " + std::to_string(whole) + " apart");
  }
}

void Linear::use_inner(int inner) {
  const int groups = groups_of(inner, matrix.group_size);
  matrix.groups = !matrix.dense || inner == matrix.inner ? matrix.stored_groups : groups;
  for (int strip = 0; strip < matrix.strips(); ++strip) {
    const std::int32_t* first = matrix.starts + matrix.first_block[strip];
    const std::int32_t* end = matrix.starts + matrix.first_block[strip + 1];
    end_block[strip] = static_cast<std::int32_t>(std::lower_bound(first, end, groups) - matrix.starts);
  }
  if (matrix.precision == Precision::int8) sum_bytes(matrix, panel, weight_sum);
}

Linear pack(Arena& arena, const std::vector<Source>& sources, Precision precision, const Kernels& kernels) {
  const int inner = sources[0].inner;
  if (precision == Precision::int8 && inner > kLongestInt8) {
    throw Error("int8 sums at most " + std::to_string(kLongestInt8) + " products, not " + std::to_string(inner));
  }
  const int number_bytes = kernels.bytes(precision);
  const int group_size = kGroupBytes / number_bytes;
  const Pattern pattern = pattern_of(sources, group_size, kernels.groups_multiple);
  const auto strips = pattern.starts.size();
  std::size_t blocks = 0;
  for (const auto& starts : pattern.starts) blocks += starts.size();
  const auto outputs = strips * static_cast<std::size_t>(pattern.strip);
  auto* values = arena.take<std::uint32_t>(blocks * static_cast<std::size_t>(pattern.groups * pattern.strip));
  auto* first_block = arena.take<std::int32_t>(strips + 1);
  auto* end_block = arena.take<std::int32_t>(strips);
  auto* starts = arena.take<std::int32_t>(blocks);
  auto* bias = arena.take<float>(outputs);
  const bool bytes = precision == Precision::int8;
  auto* scale = bytes ? arena.take<float>(outputs) : nullptr;
  auto* weight_sum = bytes ? arena.take<std::int32_t>(outputs) : nullptr;

  Linear linear{.matrix = {.precision = precision,
                           .outputs = sources.size() == 1 ? sources[0].outputs : static_cast<int>(outputs),
                           .inner = inner,
                           .strip = pattern.strip,
                           .group_size = group_size,
                           .stored_groups = pattern.groups,
                           .groups = pattern.groups,
                           .dense = pattern.dense,
                           .values = values,
                           .first_block = first_block,
                           .end_block = end_block,
                           .starts = starts,
                           .bias = bias,
                           .scale = scale,
                           .weight_sum = weight_sum},
                .panel = std::min(kernels.panel, pattern.strip),
                .end_block = end_block,
                .weight_sum = weight_sum};
  if (arena.counting()) return linear;

  std::vector<float> room;
  std::size_t strip = 0;
  for (const Source& source : sources) {
    std::copy_n(source.bias, source.outputs, bias + strip * static_cast<std::size_t>(pattern.strip));
    for (int first = 0; first < padded(source.outputs); first += pattern.strip, ++strip) {
      const auto& kept = pattern.starts[strip];
      first_block[strip + 1] = first_block[strip] + static_cast<std::int32_t>(kept.size());
      std::copy(kept.begin(), kept.end(), starts + first_block[strip]);
      for (int lane = 0; lane < pattern.strip && first + lane < source.outputs; ++lane) {
        const float* row = weights_of(source, first + lane, room);
        float inverse_scale = 0.0F;
        if (bytes) {
          const float largest = largest_magnitude(row, inner);
          const bool tiny = largest < 0x1p-100F;
          scale[strip * static_cast<std::size_t>(pattern.strip) + static_cast<std::size_t>(lane)] =
              tiny ? 1.0F : largest / kLargestByte;
          inverse_scale = tiny ? 0.0F : kLargestByte / largest;
        }
        // Panel after panel holds all blocks of the strip.
        const auto panel_groups = static_cast<std::ptrdiff_t>(kept.size()) * pattern.groups * linear.panel;
        std::uint32_t* to = values + lane / linear.panel * panel_groups + lane % linear.panel;
        for (const std::int32_t start : kept) {
          const int column = start * group_size;
          write_row(row + column, inner - column, pattern.groups, to, linear.panel, precision, number_bytes,
                    inverse_scale);
          to += static_cast<std::ptrdiff_t>(pattern.groups) * linear.panel;
        }
      }
      values += kept.size() * static_cast<std::size_t>(pattern.groups) * static_cast<std::size_t>(pattern.strip);
    }
  }
  linear.use_inner(inner);
  return linear;
}

}  // namespace prunetime
