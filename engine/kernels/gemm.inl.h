// The GEMM: tiles of rows x vectors in registers, walked over the kept blocks of a panel. Included once by each table,
// after arithmetic.inl.h and quantise.inl.h.

namespace prunetime {
namespace {

constexpr int kPanelVectors = 2;
constexpr int kPanel = kPanelVectors * kLanes;

// `left` is read as left[row * row_bytes + k * inner_bytes], one group each.
struct Left {
  const std::byte* values;
  std::ptrdiff_t row_bytes;
  std::ptrdiff_t inner_bytes;
};

// A tile of `Rows` x (`Panels` * `Vectors`) sums, in registers. Each sum starts at what is in `sums` and runs over the
// groups upwards. Vector v of panel p of `right` is read as right[p * panel_step + group * right_step + v * kLanes].
template <class Arithmetic, int Rows, int Panels, int Vectors>
struct Tile {
  typename Arithmetic::Sum sums[Rows][Panels * Vectors];

  inline __attribute__((always_inline)) void multiply(Left left, const std::uint32_t* right, std::ptrdiff_t right_step,
                                                      std::ptrdiff_t panel_step, int groups) {
    const std::byte* rows = left.values;
    for (int group = 0; group < groups; ++group) {
      typename Arithmetic::Right columns[Panels * Vectors];
      PRUNETIME_UNROLL
      for (int v = 0; v < Panels * Vectors; ++v) {
        columns[v] = Arithmetic::right(right + v / Vectors * panel_step + v % Vectors * kLanes);
      }
      PRUNETIME_UNROLL
      for (int row = 0; row < Rows; ++row) {
        const typename Arithmetic::Left factor = Arithmetic::left(rows + row * left.row_bytes);
        PRUNETIME_UNROLL
        for (int v = 0; v < Panels * Vectors; ++v) {
          sums[row][v] = Arithmetic::multiply_add(factor, columns[v], sums[row][v]);
        }
      }
      rows += left.inner_bytes;
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

// Cuts `rows` into tiles of at most `Most`, as even as can be, and calls use.template operator()<tile rows>(first row).
template <int Most, class Use>
inline __attribute__((always_inline)) void for_each_tile(int rows, const Use& use) {
  const int tiles = (rows + Most - 1) / Most;
  for (int tile = 0, first = 0; tile < tiles; ++tile) {
    const int count = (rows - first) / (tiles - tile);
    with_rows<Most>(count, [&]<int Rows>() { use.template operator()<Rows>(first); });
    first += count;
  }
}

// Whether finished sums are the output as they are.
inline bool is_output(const Gemm& g) {
  return g.activation == Activation::identity && g.output_precision == Precision::fp32;
}

inline float* output_at(const Gemm& g, int row, int column) {
  return reinterpret_cast<float*>(static_cast<std::byte*>(g.output) + row * g.output_bytes) + column;
}

// What the zero point of a row adds to its sums of bytes.
inline Ints zero_point_sum(const Gemm& g, int row, int column) {
  return load_groups(reinterpret_cast<const std::uint32_t*>(g.matrix.weight_sum) + column) * -g.input.zero_point[row];
}

// What makes outputs of sums of bytes, for a vector of columns.
struct Dequantiser {
  Vec scale, bias;

  Dequantiser(const Matrix& m, int column) : scale(load(m.scale + column)), bias(load(m.bias + column)) {}
  Vec operator()(Ints sum, float row_scale) const { return fma(to_floats(sum), scale * row_scale, bias); }
};

// Vectors that an activation takes at once; finished sums have room for a multiple of them.
constexpr int kActivated = 4;

constexpr int room_for(int sums) {
  constexpr int kStep = kActivated * kLanes;
  return (sums + kStep - 1) / kStep * kStep;
}

// Writes the activation of `rows` x `columns` finished sums, which `activate` replaces by it, where they belong.
template <class Activate>
inline void write_activated(const Gemm& g, const float* finished, std::byte* output, int rows, int columns,
                            const Activate activate) {
  const int vectors = columns / kLanes;  // of a row: a power of two
  const int all = rows * vectors;
  const bool fp32 = g.output_precision == Precision::fp32;
  const int vector_bytes = kLanes * (fp32 ? 4 : Bf16::kBytes);
  const auto place = [&](int i) { return output + i / vectors * g.output_bytes + i % vectors * vector_bytes; };
  for (int first = 0; first < all; first += kActivated) {
    Vec x[kActivated];
    PRUNETIME_UNROLL
    for (int i = 0; i < kActivated; ++i) x[i] = load(finished + (first + i) * kLanes);
    activate(x);
    PRUNETIME_UNROLL
    for (int i = 0; i < kActivated; i += 2) {
      const int left = all - first - i;
      if (left <= 0) break;
      if (fp32) {
        store(reinterpret_cast<float*>(place(first + i)), x[i]);
        if (left > 1) store(reinterpret_cast<float*>(place(first + i + 1)), x[i + 1]);
      } else if (vectors > 1) {
        store_bf16(place(first + i), x[i], x[i + 1]);
      } else {
        std::byte both[2 * kLanes * Bf16::kBytes];
        store_bf16(both, x[i], x[i + 1]);
        __builtin_memcpy(place(first + i), both, sizeof both / 2);
        if (left > 1) __builtin_memcpy(place(first + i + 1), both + sizeof both / 2, sizeof both / 2);
      }
    }
  }
}

// One vector at a time.
template <class Function>
auto of_each(const Function function) {
  return [function]<int Count>(Vec (&x)[Count]) {
    for (Vec& v : x) v = function(v);
  };
}

// `finished` holds room_for(rows * columns) floats, row after row.
void write_tile(const Gemm& g, const float* finished, int first_row, int first_column, int rows, int columns) {
  std::byte* output = static_cast<std::byte*>(g.output) + first_row * g.output_bytes +
                      static_cast<std::ptrdiff_t>(first_column) * kNumberBytes.of(g.output_precision);
  const auto write = [&](const auto& activate) { write_activated(g, finished, output, rows, columns, activate); };
  switch (g.activation) {
    case Activation::identity: return write(of_each([](Vec x) { return x; }));
    case Activation::gelu: return write(gelu());
    case Activation::rounded_gelu: return write(rounded_gelu());
    case Activation::relu: return write(of_each(relu));
    case Activation::tanh: return write(of_each([](Vec x) { return tanh(x); }));
  }
}

// Where a panel lies in its matrix.
struct Panel {
  int strip;
  int column;  // its first output
  const std::uint32_t* values;
};

inline Panel panel_of(const Matrix& m, int strip, int index, int panel_outputs) {
  const std::ptrdiff_t stored = static_cast<std::ptrdiff_t>(m.first_block[strip]) * m.stored_groups;
  const std::ptrdiff_t here = static_cast<std::ptrdiff_t>(m.first_block[strip + 1]) * m.stored_groups - stored;
  return {strip, strip * m.strip + index * panel_outputs, m.values + stored * m.strip + index * here * panel_outputs};
}

// What a panel is multiplied by at a time: whole blocks, or some groups of the one block of a dense matrix.
struct Piece {
  int first_block;
  int end_block;
  int first_group;  // of each block
  int groups;
  bool first;  // of the panel
  bool last;
};

// Sums can rest in the output between two pieces.
inline int pieces_of(const Gemm& g, int strip) {
  const Matrix& m = g.matrix;
  const int groups = (m.end_block[strip] - m.first_block[strip]) * m.groups;
  if (groups <= kPieceGroups || kNumberBytes.of(g.output_precision) < static_cast<int>(sizeof(float))) return 1;
  return (groups + kPieceGroups - 1) / kPieceGroups;
}

inline Piece piece_of(const Matrix& m, int strip, int index, int pieces) {
  const int first_block = m.first_block[strip], end_block = m.end_block[strip];
  const std::int64_t all = m.dense ? m.groups : end_block - first_block;
  const int from = static_cast<int>(all * index / pieces), to = static_cast<int>(all * (index + 1) / pieces);
  const bool first = index == 0, last = index + 1 == pieces;
  if (m.dense) return {first_block, end_block, from, to - from, first, last};
  return {first_block + from, first_block + to, 0, m.groups, first, last};
}

template <class Arithmetic, int Rows, int Panels, int Vectors>
void gemm_tile(const Gemm& g, const Panel& panel, std::ptrdiff_t panel_step, int first_row, const Piece& piece) {
  constexpr int kOutputs = Vectors * kLanes;
  constexpr int kColumns = Panels * kOutputs;
  using Sum = typename Arithmetic::Sum;
  const Matrix& m = g.matrix;
  Tile<Arithmetic, Rows, Panels, Vectors> tile;
  PRUNETIME_UNROLL
  for (int v = 0; v < Panels * Vectors; ++v) {
    const int column = panel.column + v * kLanes;
    PRUNETIME_UNROLL
    for (int row = 0; row < Rows; ++row) {
      if (!piece.first) {
        tile.sums[row][v] = __builtin_bit_cast(Sum, load(output_at(g, first_row + row, column)));
      } else if constexpr (!Arithmetic::kWholeNumbers) {
        tile.sums[row][v] = load(m.bias + column);
      } else {
        tile.sums[row][v] = Arithmetic::kBytes == 1 ? zero_point_sum(g, first_row + row, column) : Ints{};
      }
    }
  }
  const std::ptrdiff_t input_bytes = row_bytes(m.inner, Arithmetic::kBytes);
  const std::byte* input = static_cast<const std::byte*>(g.input.values) + first_row * input_bytes;
  const std::ptrdiff_t block_step = static_cast<std::ptrdiff_t>(m.stored_groups) * kOutputs;
  const std::uint32_t* values = panel.values + (piece.first_block - m.first_block[panel.strip]) * block_step +
                                static_cast<std::ptrdiff_t>(piece.first_group) * kOutputs;
  for (int block = piece.first_block; block < piece.end_block; ++block, values += block_step) {
    const std::ptrdiff_t group = m.starts[block] + piece.first_group;
    tile.multiply({input + group * kGroupBytes, input_bytes, kGroupBytes}, values, kOutputs, panel_step, piece.groups);
  }
  float finished[room_for(Rows * kColumns)];
  const bool in_place = !piece.last || is_output(g);
  float* to = in_place ? output_at(g, first_row, panel.column) : finished;
  const std::ptrdiff_t stride = in_place ? g.output_bytes / 4 : kColumns;
  if constexpr (Arithmetic::kWholeNumbers) {
    if (piece.last) {
      const float* row_scale = g.input.scale + first_row;
      PRUNETIME_UNROLL
      for (int v = 0; v < Panels * Vectors; ++v) {
        const Dequantiser dequantise(m, panel.column + v * kLanes);
        PRUNETIME_UNROLL
        for (int row = 0; row < Rows; ++row) {
          tile.sums[row][v] = __builtin_bit_cast(Sum, dequantise(tile.sums[row][v], row_scale[row]));
        }
      }
    }
  }
  PRUNETIME_UNROLL
  for (int row = 0; row < Rows; ++row) {
    PRUNETIME_UNROLL
    for (int v = 0; v < Panels * Vectors; ++v) {
      store(to + row * stride + v * kLanes, __builtin_bit_cast(Vec, tile.sums[row][v]));
    }
  }
  if (!in_place) write_tile(g, finished, first_row, panel.column, Rows, kColumns);
}

// Asks for groups in equal steps.
struct Prefetcher {
  static constexpr std::ptrdiff_t kLineGroups = 64 / kGroupBytes;
  const std::uint32_t* next;
  std::ptrdiff_t lines;  // of a step

  Prefetcher(const std::uint32_t* groups, std::ptrdiff_t count, std::ptrdiff_t steps)
      : next(groups), lines((count / kLineGroups + steps - 1) / steps) {}

  void go(int steps) {
    for (std::ptrdiff_t line = 0; line < steps * lines; ++line, next += kLineGroups) __builtin_prefetch(next, 0, 2);
  }
};

template <class Arithmetic, int Vectors>
void gemm_strips(const Gemm& g) {
  // Few tokens make few independent sums: several panels at once hide the latency of the multiply-add.
  constexpr int kFewTokens = Arithmetic::kRows / 4 < 1 ? 1 : Arithmetic::kRows / 4;
  constexpr int kPanelsAtOnce = 4;
  constexpr int kOutputs = Vectors * kLanes;
  if (g.tokens == 0) return;
  const Matrix& m = g.matrix;
  const int panels = m.strip / kOutputs;
  const std::ptrdiff_t block_step = static_cast<std::ptrdiff_t>(m.stored_groups) * kOutputs;
  int item = g.first_strip * panels;
  const int end = g.end_strip * panels;
  if (m.dense && g.tokens <= kFewTokens) {
    for (; item + kPanelsAtOnce <= end; item += kPanelsAtOnce) {
      const Panel panel = panel_of(m, item / panels, item % panels, kOutputs);
      with_rows<kFewTokens>(g.tokens, [&]<int Rows>() {
        gemm_tile<Arithmetic, Rows, kPanelsAtOnce, Vectors>(g, panel, block_step, 0, piece_of(m, panel.strip, 0, 1));
      });
    }
  }
  for (; item < end; ++item) {
    const Panel panel = panel_of(m, item / panels, item % panels, kOutputs);
    const std::ptrdiff_t size = (m.first_block[panel.strip + 1] - m.first_block[panel.strip]) * block_step;
    const int pieces = pieces_of(g, panel.strip);
    Prefetcher next_panel(panel.values + size, size, std::ptrdiff_t{pieces} * g.tokens);  // about as large
    for (int index = 0; index < pieces; ++index) {
      const Piece piece = piece_of(m, panel.strip, index, pieces);
      for_each_tile<Arithmetic::kRows>(g.tokens, [&]<int Rows>(int first) {
        if constexpr (kPrefetches) next_panel.go(Rows);
        gemm_tile<Arithmetic, Rows, 1, Vectors>(g, panel, 0, first, piece);
      });
    }
  }
}

template <class Arithmetic>
void gemm_as(const Gemm& g) {
  if constexpr (kPanel == kPad) {
    if (g.matrix.strip < kPanel) return gemm_strips<Arithmetic, kPanelVectors / 2>(g);
  }
  gemm_strips<Arithmetic, kPanelVectors>(g);
}

void gemm(const Gemm& g) {
  switch (g.matrix.precision) {
    case Precision::fp32: return gemm_as<Fp32>(g);
    case Precision::bf16: return gemm_as<Bf16>(g);
    case Precision::int8: return gemm_as<Int8>(g);
  }
}

}  // namespace
}  // namespace prunetime
