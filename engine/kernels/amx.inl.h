// What the tables for AMX share: the GEMM of bf16 and int8 on tiles, over `Tiles`, which does what the instructions do.
// All else is AVX-512's. Its bf16 arithmetic is no choice: on Sapphire Rapids vdpbf16ps was measured at 109 GFLOPS a core
// against 240 of fp32's multiply-add, so attention is fp32, and bf16 that does not fit tiles is split into floats.
//
// Written without a CPU that has AMX: tested over emulated tiles, its speed never measured.
//
// Sums, the left operand (rows x groups) and the right one (groups x 16 outputs) are tiles of 16 rows of 64 bytes or
// fewer. A panel of weights lies in memory as right tiles below one another; left tiles are read where activations lie.
#include "kernels/avx512.inl.h"

#include "kernels/table.inl.h"

namespace prunetime {
namespace {

constexpr int kTileBytes = 64;   // of a row
constexpr int kTileGroups = 16;  // as many as a left tile has in a row and a right one has rows
constexpr int kTallestTile = 16;

// Blocks of fewer groups would leave more than three quarters of the multipliers idle.
constexpr int kFewestGroups = 4;

// Who is in which of the eight tiles. Four sums at a time, so that products need not wait for one another.
constexpr int kSumTiles = 4;
constexpr int kFirstLeft = 4;
constexpr int kFirstRight = 6;

// The operand of ldtilecfg (Intel's Software Developer's Manual, volume 1, "Programming with Intel AMX").
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};

  TileConfig(int left_rows, int groups) {
    for (int tile = 0; tile < kFirstRight + 2; ++tile) {
      const bool left = tile >= kFirstLeft && tile < kFirstRight;
      row_bytes[tile] = static_cast<std::uint16_t>(left ? groups * kGroupBytes : kTileBytes);
      rows[tile] = static_cast<std::uint8_t>(tile < kFirstRight ? left_rows : groups);
    }
  }
};
static_assert(sizeof(TileConfig) == 64);

// How this thread's tiles are configured; a pass over equal chunks needs to do so once.
struct TileShape {
  int rows = 0;
  int groups = 0;
};
thread_local TileShape tile_shape;

template <class Tiles>
void configure_tiles(int rows, int groups) {
  if (tile_shape.rows == rows && tile_shape.groups == groups) return;
  Tiles::configure(TileConfig(rows, groups));
  tile_shape = {rows, groups};
}

template <class Tiles>
void release_tiles() {
  if (tile_shape.rows == 0) return;
  Tiles::release();
  tile_shape = {};
}

// Calls use.template operator()<i>() for i in [First, End).
template <int End, int First = 0, class Use>
inline __attribute__((always_inline)) void unrolled(const Use& use) {
  if constexpr (First < End) {
    use.template operator()<First>();
    unrolled<End, First + 1>(use);
  }
}

// Tiles of sums, one below the other: rows [first[i], first[i] + rows) x the outputs of a panel.
template <class Tiles, Precision kPrecision, int PanelTiles>
struct TileBlock {
  static constexpr int kRowTiles = kSumTiles / PanelTiles;
  static constexpr int kColumns = PanelTiles * kLanes;
  static constexpr std::ptrdiff_t kRightBytes = kColumns * kGroupBytes;
  static constexpr bool kWholeNumbers = kPrecision == Precision::int8;

  const Gemm& g;
  Panel panel;
  int rows;
  int first[kRowTiles];

  void run() const {
    alignas(kTileBytes) float sums[kRowTiles][kTallestTile * kColumns];
    multiply();
    if (!kWholeNumbers && is_output(g)) {
      unrolled<kRowTiles>([&]<int r>() { store_sums<r>(output_at(g, first[r], panel.column), g.output_bytes); });
      return;
    }
    unrolled<kRowTiles>([&]<int r>() { store_sums<r>(sums[r], kColumns * static_cast<int>(sizeof(float))); });
    for (int r = 0; r < kRowTiles; ++r) finish(sums[r], first[r]);
  }

 private:
  inline __attribute__((always_inline)) void multiply() const {
    const Matrix& m = g.matrix;
    start_sums();
    const std::ptrdiff_t left_bytes = row_bytes(m.inner, kNumberBytes.of(kPrecision));
    const std::byte* left[kRowTiles];
    for (int r = 0; r < kRowTiles; ++r) left[r] = static_cast<const std::byte*>(g.input.values) + first[r] * left_bytes;
    const std::uint32_t* right = panel.values;
    if (!m.dense) {
      for (int block = m.first_block[panel.strip]; block < m.end_block[panel.strip]; ++block) {
        step(left, m.starts[block] * std::ptrdiff_t{kGroupBytes}, left_bytes, right);
        right += m.stored_groups * kColumns;
      }
      return;
    }
    const int whole = m.groups / kTileGroups;
    const int rest = m.groups % kTileGroups;  // only of a prefix: a whole matrix is padded
    alignas(kTileBytes) std::byte last[kRowTiles][kTallestTile][kTileBytes];
    for (int r = 0; rest > 0 && r < kRowTiles; ++r) {
      const std::byte* from = left[r] + whole * kTileBytes;
      for (int row = 0; row < rows; ++row, from += left_bytes) {
        const auto groups = static_cast<__mmask16>((1U << rest) - 1);
        _mm512_store_si512(last[r][row], _mm512_maskz_loadu_epi32(groups, from));
      }
    }
    for (int i = 0; i < whole; ++i, right += kTileGroups * kColumns) step(left, i * kTileBytes, left_bytes, right);
    if (rest == 0) return;
    for (int r = 0; r < kRowTiles; ++r) left[r] = last[r][0];
    step(left, 0, kTileBytes, right);
  }

  inline __attribute__((always_inline)) void start_sums() const {
    unrolled<kSumTiles>([&]<int i>() {
      if constexpr (kWholeNumbers) {
        Tiles::template zero<i>();
      } else {
        Tiles::template load<i>(g.matrix.bias + panel.column + i % PanelTiles * kLanes, 0);  // every row the same
      }
    });
  }

  // Adds the product of one left tile of each row of tiles and the right tiles of the panel.
  static inline __attribute__((always_inline)) void step(const std::byte* const* left, std::ptrdiff_t offset,
                                                         std::ptrdiff_t left_bytes, const std::uint32_t* right) {
    unrolled<kRowTiles>([&]<int r>() {
      constexpr int kLeft = kFirstLeft + r % 2;
      Tiles::template load<kLeft>(left[r] + offset, left_bytes);
      unrolled<PanelTiles>([&]<int p>() {
        if constexpr (r == 0) Tiles::template load<kFirstRight + p>(right + p * kLanes, kRightBytes);
        if constexpr (kWholeNumbers) {
          Tiles::template multiply_int8<r * PanelTiles + p, kLeft, kFirstRight + p>();
        } else {
          Tiles::template multiply_bf16<r * PanelTiles + p, kLeft, kFirstRight + p>();
        }
      });
    });
  }

  template <int r>
  static inline __attribute__((always_inline)) void store_sums(float* to, std::ptrdiff_t stride_bytes) {
    unrolled<PanelTiles>([&]<int p>() { Tiles::template store<r * PanelTiles + p>(to + p * kLanes, stride_bytes); });
  }

  // From the sums of `rows` rows to the output.
  void finish(float* sums, int first_row) const {
    std::ptrdiff_t stride = kColumns;
    if constexpr (kWholeNumbers) {
      float* to = is_output(g) ? output_at(g, first_row, panel.column) : sums;
      if (is_output(g)) stride = g.output_bytes / static_cast<std::ptrdiff_t>(sizeof(float));
      for (int row = 0; row < rows; ++row) {
        for (int lane = 0; lane < kColumns; lane += kLanes) {
          const int column = panel.column + lane;
          const Ints sum = bits_of(load(sums + row * kColumns + lane)) + zero_point_sum(g, first_row + row, column);
          store(to + row * stride + lane, Dequantiser(g.matrix, column)(sum, g.input.scale[first_row + row]));
        }
      }
    }
    if (!is_output(g)) write_tile(g, sums, first_row, panel.column, rows, kColumns);
  }
};

template <class Tiles, Precision kPrecision, int PanelTiles>
void gemm_of_panels(const Gemm& g) {
  using Block = TileBlock<Tiles, kPrecision, PanelTiles>;
  if (g.tokens == 0) return;
  // All tiles have as many rows, the last ones overlap: nothing beyond the tokens is read, and one shape serves all.
  const int blocks = (g.tokens - 1) / (Block::kRowTiles * kTallestTile) + 1;
  const int rows = (g.tokens - 1) / (Block::kRowTiles * blocks) + 1;
  configure_tiles<Tiles>(rows, g.matrix.dense ? kTileGroups : g.matrix.stored_groups);
  for (int strip = g.first_strip; strip < g.end_strip; ++strip) {
    Block block{g, panel_of(g.matrix, strip, 0, Block::kColumns), rows, {}};
    for (int i = 0; i < blocks; ++i) {
      for (int r = 0; r < Block::kRowTiles; ++r) {
        const int next = (i * Block::kRowTiles + r) * rows;
        block.first[r] = next < g.tokens - rows ? next : g.tokens - rows;
      }
      block.run();
    }
  }
}

template <class Tiles, Precision kPrecision>
void gemm_of_strips(const Gemm& g) {
  return g.matrix.strip == kLanes ? gemm_of_panels<Tiles, kPrecision, 1>(g) : gemm_of_panels<Tiles, kPrecision, 2>(g);
}

// Tiles or not is a question of the matrix alone: a row has the same bits in every batch.
template <class Tiles>
void gemm_on_tiles(const Gemm& g) {
  const bool fits = g.matrix.dense || g.matrix.stored_groups >= kFewestGroups;
  switch (g.matrix.precision) {
    case Precision::fp32: return gemm_as<Fp32>(g);
    case Precision::bf16: return fits ? gemm_of_strips<Tiles, Precision::bf16>(g) : gemm_as<SplitBf16>(g);
    case Precision::int8: return fits ? gemm_of_strips<Tiles, Precision::int8>(g) : gemm_as<Int8>(g);
  }
}

template <class Tiles, InstructionSets kRequired>
constexpr Kernels table_on_tiles(const char* isa, const char* description) {
  Kernels kernels = table<kRequired>(isa, description);
  kernels.groups_multiple = kTileGroups;
  kernels.narrow_attention = Precision::fp32;  // vdpbf16ps: 109 GFLOPS against 240 (Sapphire Rapids)
  kernels.gemm = gemm_on_tiles<Tiles>;
  kernels.release = release_tiles<Tiles>;
  return kernels;
}

}  // namespace
}  // namespace prunetime
