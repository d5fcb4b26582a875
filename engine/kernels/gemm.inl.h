// The GEMM: weights packed into panels of kPanel outputs, [inner][kPanel] each; tiles of rows x vectors in registers.
// Included once by each table, after math.inl.h.

#if defined(__clang__)
#define PRUNETIME_UNROLL _Pragma("unroll")
#else
#define PRUNETIME_UNROLL _Pragma("GCC unroll 32")
#endif

namespace prunetime {
namespace {

constexpr int kPanelVectors = 2;
constexpr int kPanel = kPanelVectors * kLanes;

// `left` is read as left[row * row_step + k * inner_step].
struct Left {
  const float* values;
  std::ptrdiff_t row_step;
  std::ptrdiff_t inner_step;
};

// A tile of `Rows` x (`Panels` * Vectors) sums over `inner`, in registers. Vector v of panel p of `right` is read as
// right[p * panel_step + k * right_step + v * kLanes]. Each sum starts at what is in `sums`, and runs over k upwards.
template <int Rows, int Panels, int Vectors>
struct Tile {
  Vec sums[Rows][Panels * Vectors];

  inline __attribute__((always_inline)) void multiply(Left left, const float* right, std::ptrdiff_t right_step,
                                                      std::ptrdiff_t panel_step, int inner) {
    const float* rows = left.values;
    for (int k = 0; k < inner; ++k) {
      Vec columns[Panels * Vectors];
      PRUNETIME_UNROLL
      for (int v = 0; v < Panels * Vectors; ++v) {
        columns[v] = load(right + v / Vectors * panel_step + v % Vectors * kLanes);
      }
      PRUNETIME_UNROLL
      for (int row = 0; row < Rows; ++row) {
        const Vec factor = broadcast(rows[row * left.row_step]);
        PRUNETIME_UNROLL
        for (int v = 0; v < Panels * Vectors; ++v) sums[row][v] = fma(factor, columns[v], sums[row][v]);
      }
      rows += left.inner_step;
      right += right_step;
    }
  }
};

// Calls use.template operator()<rows>() for a number of rows known only now, 1..Most.
template <int Most, class Use>
inline __attribute__((always_inline)) void with_rows(int rows, const Use& use) {
  if constexpr (Most > 1) {
    if (rows < Most) return with_rows<Most - 1>(rows, use);
  }
  use.template operator()<Most>();
}

// Cuts `rows` into tiles as even as can be and calls use.template operator()<tile rows>(first row) for each.
template <class Use>
inline __attribute__((always_inline)) void for_each_tile(int rows, const Use& use) {
  const int tiles = (rows + kTileRows - 1) / kTileRows;
  for (int tile = 0, first = 0; tile < tiles; ++tile) {
    const int count = (rows - first) / (tiles - tile);
    with_rows<kTileRows>(count, [&]<int Rows>() { use.template operator()<Rows>(first); });
    first += count;
  }
}

template <int Rows, int Panels>
void gemm_tile(const Gemm& g, int first_token, int panel) {
  Tile<Rows, Panels, kPanelVectors> tile;
  const std::ptrdiff_t panel_step = static_cast<std::ptrdiff_t>(g.inner) * kPanel;
  const float* bias = g.bias + panel * kPanel;
  float* output = g.output + first_token * g.output_stride + panel * kPanel;
  PRUNETIME_UNROLL
  for (int v = 0; v < Panels * kPanelVectors; ++v) {
    const Vec start = load(bias + v * kLanes);
    PRUNETIME_UNROLL
    for (int row = 0; row < Rows; ++row) tile.sums[row][v] = start;
  }
  tile.multiply({g.input + first_token * g.input_stride, g.input_stride, 1}, g.packed + panel * panel_step, kPanel,
                panel_step, g.inner);
  PRUNETIME_UNROLL
  for (int row = 0; row < Rows; ++row) {
    PRUNETIME_UNROLL
    for (int v = 0; v < Panels * kPanelVectors; ++v) {
      store(output + row * g.output_stride + v * kLanes, tile.sums[row][v]);
    }
  }
  if (g.activation == Activation::identity) return;
  for (int row = 0; row < Rows; ++row) {  // a second look while the tile is in the L1 cache
    for (int v = 0; v < Panels * kPanelVectors; ++v) {
      float* place = output + row * g.output_stride + v * kLanes;
      store(place, activate(g.activation, load(place)));
    }
  }
}

void gemm(const Gemm& g) {
  // Few tokens make few independent sums: several panels at once hide the latency of the multiply-add.
  constexpr int kFewTokens = kTileRows / 4;
  constexpr int kPanelsAtOnce = 4;
  int panel = g.first_panel;
  if (g.tokens <= kFewTokens) {
    for (; panel + kPanelsAtOnce <= g.end_panel; panel += kPanelsAtOnce) {
      with_rows<kFewTokens>(g.tokens, [&]<int Rows>() { gemm_tile<Rows, kPanelsAtOnce>(g, 0, panel); });
    }
  }
  for (; panel < g.end_panel; ++panel) {
    for_each_tile(g.tokens, [&]<int Rows>(int first) { gemm_tile<Rows, 1>(g, first, panel); });
  }
}

std::size_t packed_floats(int outputs, int inner) {
  return static_cast<std::size_t>((outputs + kPanel - 1) / kPanel) * kPanel * static_cast<std::size_t>(inner);
}

void pack(const float* weight, int outputs, int inner, float* packed) {
  for (int first = 0; first < outputs; first += kPanel) {
    for (int k = 0; k < inner; ++k) {
      for (int output = first; output < first + kPanel; ++output) {
        *packed++ = output < outputs ? weight[static_cast<std::ptrdiff_t>(output) * inner + k] : 0.0F;
      }
    }
  }
}

}  // namespace
}  // namespace prunetime
