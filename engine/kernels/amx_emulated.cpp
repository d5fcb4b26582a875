// The table for AMX with tiles in memory, for tests on a CPU without them. It does what Intel's Software Developer's
// Manual, volume 2, says of LDTILECFG, TILELOADD, TILESTORED, TDPBF16PS and TDPBUSD, down to the order of the sums; what
// is an invalid instruction there stops the program here. That denormals are zeros is left to FlushDenormals.
#include "kernels/amx.inl.h"

namespace prunetime {
namespace {

struct EmulatedTile {
  int rows;
  int row_bytes;
  alignas(kTileBytes) std::byte values[kTallestTile][kTileBytes];
};
thread_local EmulatedTile tiles[8];  // not configured where there are no rows

inline void require(bool holds) {
  if (!holds) __builtin_trap();
}

struct EmulatedTiles {
  static void configure(const TileConfig& config) {
    require(config.palette == 1 && config.start_row == 0);
    for (int tile = 0; tile < 8; ++tile) {
      require(config.rows[tile] <= kTallestTile && config.row_bytes[tile] <= kTileBytes);
      require((config.rows[tile] == 0) == (config.row_bytes[tile] == 0));
      tiles[tile] = {config.rows[tile], config.row_bytes[tile], {}};
    }
  }

  static void release() {
    for (EmulatedTile& tile : tiles) tile = {};
  }

  template <int kTile>
  static void zero() {
    require(tiles[kTile].rows > 0);
    __builtin_memset(tiles[kTile].values, 0, sizeof tiles[kTile].values);
  }

  template <int kTile>
  static void load(const void* from, std::ptrdiff_t stride_bytes) {
    zero<kTile>();
    EmulatedTile& tile = tiles[kTile];
    for (int row = 0; row < tile.rows; ++row) {
      const auto* bytes = static_cast<const std::byte*>(from) + row * stride_bytes;
      __builtin_memcpy(tile.values[row], bytes, static_cast<std::size_t>(tile.row_bytes));
    }
  }

  template <int kTile>
  static void store(void* to, std::ptrdiff_t stride_bytes) {
    const EmulatedTile& tile = tiles[kTile];
    require(tile.rows > 0);
    for (int row = 0; row < tile.rows; ++row) {
      auto* bytes = static_cast<std::byte*>(to) + row * stride_bytes;
      __builtin_memcpy(bytes, tile.values[row], static_cast<std::size_t>(tile.row_bytes));
    }
  }

  // The even products of a row are summed, and the odd ones, and then both are added to the sum.
  template <int kSum, int kLeft, int kRight>
  static void multiply_bf16() {
    multiply<kSum, kLeft, kRight>([](Ints start, const std::byte* left, const auto& right, int groups) {
      Vec even{};
      Vec odd{};
      for (int group = 0; group < groups; ++group) {
        const auto a = SplitBf16::left(left + group * kGroupBytes);
        const auto b = SplitBf16::right(reinterpret_cast<const std::uint32_t*>(right[group]));
        even = fma(a.first, b.first, even);
        odd = fma(a.second, b.second, odd);
      }
      return bits_of(of_bits(start) + (even + odd));
    });
  }

  template <int kSum, int kLeft, int kRight>
  static void multiply_int8() {
    multiply<kSum, kLeft, kRight>([](Ints sum, const std::byte* left, const auto& right, int groups) {
      for (int group = 0; group < groups; ++group) {
        const Ints a = broadcast_group(left + group * kGroupBytes);
        const Ints b = load_groups(reinterpret_cast<const std::uint32_t*>(right[group]));
        for (int byte = 0; byte < 4; ++byte) sum = sum + (a >> 8 * byte & 0xff) * (b << (24 - 8 * byte) >> 24);
      }
      return sum;
    });
  }

 private:
  // Every row of sums becomes add(sums, row of the left tile, rows of the right tile, how many).
  template <int kSum, int kLeft, int kRight, class Add>
  static void multiply(const Add& add) {
    EmulatedTile& sum = tiles[kSum];
    const EmulatedTile& left = tiles[kLeft];
    const EmulatedTile& right = tiles[kRight];
    require(kSum != kLeft && kSum != kRight && kLeft != kRight);
    require(sum.rows > 0 && sum.rows == left.rows && sum.row_bytes == kTileBytes && right.row_bytes == kTileBytes);
    require(left.row_bytes == right.rows * kGroupBytes);
    for (int row = 0; row < sum.rows; ++row) {
      float* values = reinterpret_cast<float*>(sum.values[row]);
      prunetime::store(values, of_bits(add(bits_of(prunetime::load(values)), left.values[row], right.values, right.rows)));
    }
  }
};

}  // namespace

constinit const Kernels kAmxEmulatedKernels =
    table_on_tiles<EmulatedTiles, kAvx512 | kAvx512Vnni | kAvx512Bf16>(
        "amx_emulated", "tests of AMX on a CPU without it");

}  // namespace prunetime
