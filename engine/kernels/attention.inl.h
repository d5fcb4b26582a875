// Attention of one head of one sequence. Queries lie across the lanes, so that the softmax runs down each lane: no
// sums across a vector, and a lane without a query needs no mask. Included once by each table, after gemm.inl.h.
//
// Both products are of 32-bit units, so that one code serves float32, where a unit is a number, and bf16, where it is a
// pair of numbers next to each other in the summed dimension.

namespace prunetime {
namespace {

constexpr int kQueries = 2 * kLanes;  // at once
static_assert(kQueries <= kMostQueries);

constexpr int whole_vectors(int count) { return (count + kLanes - 1) / kLanes * kLanes; }

// Float32 rows and products.
struct Float32 {
  using Element = float;
  static constexpr int kPerUnit = 1;
  static constexpr int kExpDegree = 5;

  static Vec multiply_add(Vec a, Vec b, Vec sums) { return fma(a, b, sums); }
  static Vec load_units(const float* row, int count) { return load_first(row, count); }
  static Vec unit(const Vec (&numbers)[1]) { return numbers[0]; }
  static Vec number(Vec unit, int) { return unit; }
};

#if defined(PRUNETIME_BF16_PAIRS)
constexpr Precision kNarrowAttention = Precision::bf16;

// Rows of bf16, whose products are summed in float32.
struct BFloat16 {
  using Element = std::uint16_t;
  static constexpr int kPerUnit = 2;
  static constexpr int kExpDegree = 3;

  static Vec multiply_add(Vec a, Vec b, Vec sums) { return multiply_add_pairs(a, b, sums); }
  static Vec load_units(const Element* row, int count) { return load_pairs(row, count); }
  static Vec unit(const Vec (&numbers)[2]) { return pack_pairs(numbers[0], numbers[1]); }
  static Vec number(Vec unit, int i) { return of_bits(i == 0 ? bits_of(unit) << 16 : bits_of(unit) & ~0xffff); }
};
#else
constexpr Precision kNarrowAttention = Precision::fp32;
#endif

template <class Arithmetic>
constexpr int units(int count) {
  return (count + Arithmetic::kPerUnit - 1) / Arithmetic::kPerUnit;
}

std::size_t attention_scratch_floats(int longest, int head_dim) {
  const auto length = static_cast<std::size_t>(whole_vectors(longest));
  const auto width = static_cast<std::size_t>(whole_vectors(head_dim));
  return (length + width) * kQueries + 2 * length * width + length * kLanes;
}

// The parts of the scratch. A row of keys or values that is not the caller's has `width` units.
template <class Arithmetic>
struct AttentionScratch {
  int width;
  float* scores;    // [length][kQueries], then the probabilities in units
  float* panel;     // [width][kQueries]: the queries, then the context
  float* keys;      // [length][width]
  float* values;    // [units of length][width]
  float* received;  // [length][kLanes]

  AttentionScratch(const Attention& a, float* scratch) : width(whole_vectors(a.head_dim)) {
    const std::ptrdiff_t length = whole_vectors(a.length);
    scores = scratch;
    panel = scores + length * kQueries;
    keys = panel + static_cast<std::ptrdiff_t>(width) * kQueries;
    values = keys + length * width;
    received = values + length * width;
  }
};

// Units that are read as values[row * row_step + k * inner_step].
struct Units {
  const float* values;
  std::ptrdiff_t row_step;
  std::ptrdiff_t inner_step;
};

// sums[Rows][Vectors] = left right, where right has `inner` rows of kQueries units.
template <class Arithmetic, int Rows, int Vectors>
inline __attribute__((always_inline)) void multiply_rows(Units left, const float* right, int inner,
                                                         Vec (&sums)[Rows][Vectors]) {
  PRUNETIME_UNROLL
  for (int row = 0; row < Rows; ++row) {
    PRUNETIME_UNROLL
    for (int v = 0; v < Vectors; ++v) sums[row][v] = zero();
  }
  for (int k = 0; k < inner; ++k) {
    Vec columns[Vectors];
    PRUNETIME_UNROLL
    for (int v = 0; v < Vectors; ++v) columns[v] = load(right + v * kLanes);
    PRUNETIME_UNROLL
    for (int row = 0; row < Rows; ++row) {
      const Vec factor = broadcast(left.values[row * left.row_step]);
      PRUNETIME_UNROLL
      for (int v = 0; v < Vectors; ++v) sums[row][v] = Arithmetic::multiply_add(factor, columns[v], sums[row][v]);
    }
    left.values += left.inner_step;
    right += kQueries;
  }
}

// to[unit][row] = the units of from[row] of up to kLanes rows, zero beyond; rows of `to` are kQueries units.
template <class Arithmetic>
inline void transpose_queries(const typename Arithmetic::Element* from, std::ptrdiff_t stride, int rows, int width,
                              float* to) {
  for (int column = 0; column < width; column += kLanes * Arithmetic::kPerUnit) {
    Vec tile[kLanes];
    PRUNETIME_UNROLL
    for (int row = 0; row < kLanes; ++row) {
      tile[row] = row < rows ? Arithmetic::load_units(from + row * stride + column, width - column) : zero();
    }
    transpose(tile);
    PRUNETIME_UNROLL
    for (int unit = 0; unit < kLanes; ++unit) store(to + unit * kQueries, tile[unit]);
    to += kLanes * kQueries;
  }
}

// to[row][column] = factor[row] from[column][row] of up to kLanes rows; rows of `from` are kQueries floats.
inline void transpose_context(const float* from, Vec factor, float* to, std::ptrdiff_t stride, int rows, int width) {
  for (int column = 0; column < width; column += kLanes) {
    Vec tile[kLanes];
    PRUNETIME_UNROLL
    for (int i = 0; i < kLanes; ++i) tile[i] = load(from + (column + i) * kQueries) * factor;
    transpose(tile);
    PRUNETIME_UNROLL
    for (int row = 0; row < kLanes; ++row) {
      if (row < rows) store_first(to + row * stride + column, tile[row], width - column);
    }
  }
}

// Keys, and values across the keys, as units.
template <class Arithmetic>
void copy_keys_and_values(const Attention a, const AttentionScratch<Arithmetic> s) {
  using Element = typename Arithmetic::Element;
  constexpr int kPerUnit = Arithmetic::kPerUnit;
  for (int column = 0; column < a.head_dim; column += kLanes * kPerUnit) {
    const Element* from = static_cast<const Element*>(a.key) + column;
    float* to = s.keys + column / kPerUnit;
    for (int key = 0; key < a.length; ++key, from += a.stride, to += s.width) {
      store(to, Arithmetic::load_units(from, a.head_dim - column));
    }
  }
  for (int column = 0; column < a.head_dim; column += kLanes) {
    const Element* from = static_cast<const Element*>(a.value) + column;
    float* to = s.values + column;
    for (int left = a.length; left > 0; left -= kPerUnit, to += s.width) {
      Vec numbers[kPerUnit];
      for (int i = 0; i < kPerUnit; ++i, from += a.stride) {
        numbers[i] = i < left ? load_first(from, a.head_dim - column) : zero();
      }
      store(to, Arithmetic::unit(numbers));
    }
  }
}

// What the lanes of the queries need.
template <int Vectors>
struct Softmax {
  Vec greatest[Vectors];
  Vec least[Vectors];
  Vec reciprocal[Vectors];  // of the sums of the exponentials
};

// `Vectors` of queries: a.query and a.context are the rows of the first.
template <class Arithmetic, int Vectors>
struct Block {
  const Attention a;
  const AttentionScratch<Arithmetic> s;
  int queries;

  // scores = keys queries^T
  Softmax<Vectors> score() const {
    constexpr bool kCopied = Arithmetic::kPerUnit > 1;
    const Units keys{kCopied ? s.keys : static_cast<const float*>(a.key), kCopied ? s.width : a.stride, 1};
    Softmax<Vectors> lanes;
    for (int v = 0; v < Vectors; ++v) {
      lanes.greatest[v] = broadcast(-__builtin_inff());
      lanes.least[v] = broadcast(__builtin_inff());
    }
    for_each_tile<kTileRows>(a.length, [&, panel = s.panel, inner = units<Arithmetic>(a.head_dim)]<int Rows>(int first) {
      Vec sums[Rows][Vectors];
      multiply_rows<Arithmetic>({keys.values + first * keys.row_step, keys.row_step, keys.inner_step}, panel, inner,
                                sums);
      if (a.bias != nullptr) {
        PRUNETIME_UNROLL
        for (int row = 0; row < Rows; ++row) {
          PRUNETIME_UNROLL
          for (int v = 0; v < Vectors; ++v) sums[row][v] = sums[row][v] + load(a.bias + v * kLanes - first - row);
        }
      }
      float* out = s.scores + first * kQueries;
      PRUNETIME_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        Vec greatest = lanes.greatest[v], least = lanes.least[v];
        PRUNETIME_UNROLL
        for (int row = 0; row < Rows; ++row) {
          store(out + row * kQueries + v * kLanes, sums[row][v]);
          greatest = max(greatest, sums[row][v]);
          least = min(least, sums[row][v]);
        }
        lanes.greatest[v] = greatest;
        lanes.least[v] = least;
      }
    });
    return lanes;
  }

  // scores become e^(scale (score - greatest of the lane)), in units.
  void exponentiate(Softmax<Vectors>& lanes) const {
    const Vec scale = broadcast(a.scale * kLog2OfE);
    const int length = a.length;
    const float* score = s.scores;
    float* to = s.scores;
    Vec total[Vectors], greatest[Vectors];
    for (int v = 0; v < Vectors; ++v) {
      total[v] = lanes.least[v] - lanes.least[v];  // 0, or NaN where a score overflowed to minus infinity
      greatest[v] = lanes.greatest[v];
    }
    const auto next_unit = [&](int keys) __attribute__((always_inline)) {
      PRUNETIME_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        Vec numbers[Arithmetic::kPerUnit];
        PRUNETIME_UNROLL
        for (int i = 0; i < Arithmetic::kPerUnit; ++i) {
          numbers[i] = zero();
          if (i >= keys) continue;
          const Vec below = load(score + i * kQueries + v * kLanes) - greatest[v];
          numbers[i] = exp2_of_nonpositive<Arithmetic::kExpDegree>(below * scale);
          total[v] = total[v] + numbers[i];
        }
        store(to + v * kLanes, Arithmetic::unit(numbers));
      }
      score += Arithmetic::kPerUnit * kQueries;
      to += kQueries;
    };
    int key = 0;
    for (; key + Arithmetic::kPerUnit <= length; key += Arithmetic::kPerUnit) next_unit(Arithmetic::kPerUnit);
    if (key < length) next_unit(length - key);
    for (int v = 0; v < Vectors; ++v) lanes.reciprocal[v] = 1.0F / total[v];
  }

  // received[key][lane] += the probability; `begin` makes it start at 0.
  void add_received(const Softmax<Vectors>& lanes, bool begin) const {
    Vec factor[Vectors];
    for (int v = 0; v < Vectors; ++v) factor[v] = keep_first(lanes.reciprocal[v], queries - v * kLanes);
    float* place = s.received;
    const float* row = s.scores;
    for (int key = 0; key < a.length; key += Arithmetic::kPerUnit, row += kQueries) {
      for (int i = 0; i < Arithmetic::kPerUnit; ++i, place += kLanes) {  // one too many at most; there is room
        Vec received = begin ? zero() : load(place);
        PRUNETIME_UNROLL
        for (int v = 0; v < Vectors; ++v) {
          received = fma(Arithmetic::number(load(row + v * kLanes), i), factor[v], received);
        }
        store(place, received);
      }
    }
  }

  // panel = values^T probabilities
  void sum_values() const {
    constexpr bool kCopied = Arithmetic::kPerUnit > 1;
    const Units values{kCopied ? s.values : static_cast<const float*>(a.value), 1, kCopied ? s.width : a.stride};
    for_each_tile<kTileRows>(a.head_dim, [&, scores = s.scores, inner = units<Arithmetic>(a.length)]<int Rows>(int first) {
      Vec sums[Rows][Vectors];
      multiply_rows<Arithmetic>({values.values + first, values.row_step, values.inner_step}, scores, inner, sums);
      float* out = s.panel + first * kQueries;
      PRUNETIME_UNROLL
      for (int row = 0; row < Rows; ++row) {
        PRUNETIME_UNROLL
        for (int v = 0; v < Vectors; ++v) store(out + row * kQueries + v * kLanes, sums[row][v]);
      }
    });
  }

  void run(bool first) const {
    const auto* query = static_cast<const typename Arithmetic::Element*>(a.query);
    for (int v = 0; v < Vectors; ++v) {
      transpose_queries<Arithmetic>(query + v * kLanes * a.stride, a.stride, queries - v * kLanes, a.head_dim,
                                    s.panel + v * kLanes);
    }
    Softmax<Vectors> lanes = score();
    exponentiate(lanes);
    if (a.received != nullptr) add_received(lanes, first);
    sum_values();
    for (int v = 0; v < Vectors; ++v) {
      transpose_context(s.panel + v * kLanes, lanes.reciprocal[v], a.context + v * kLanes * a.context_stride,
                        a.context_stride, queries - v * kLanes, a.head_dim);
    }
  }
};

// to[row] = the sum of from[row], in one order.
inline void sum_rows(const float* from, int rows, float* to) {
  for (int first = 0; first < rows; first += kLanes) {
    Vec tile[kLanes];
    for (int i = 0; i < kLanes; ++i) tile[i] = first + i < rows ? load(from + (first + i) * kLanes) : zero();
    transpose(tile);
    Vec total = tile[0];
    for (int i = 1; i < kLanes; ++i) total = total + tile[i];
    store_first(to + first, total, rows - first);
  }
}

template <class Arithmetic>
struct Window {
  Attention a;
  AttentionScratch<Arithmetic> s;
};

// `a` and `s` with only the keys that some of the queries [first, end) may attend to: all others weigh exactly nothing.
template <class Arithmetic>
Window<Arithmetic> window_of(const Attention& a, const AttentionScratch<Arithmetic>& s, int first, int end) {
  using Element = typename Arithmetic::Element;
  const int unit = first > a.window ? (first - a.window) / Arithmetic::kPerUnit : 0;
  const int from = unit * Arithmetic::kPerUnit;
  Window<Arithmetic> window{a, s};
  window.a.key = static_cast<const Element*>(a.key) + from * a.stride;
  window.a.value = static_cast<const Element*>(a.value) + from * a.stride;
  window.a.bias = a.bias - from;
  window.a.length = (end + a.window < a.length ? end + a.window : a.length) - from;
  window.s.keys += static_cast<std::ptrdiff_t>(from) * s.width;
  window.s.values += static_cast<std::ptrdiff_t>(unit) * s.width;
  return window;
}

template <class Arithmetic>
void attention_as(const Attention& a, float* scratch) {
  const AttentionScratch<Arithmetic> s(a, scratch);
  if constexpr (Arithmetic::kPerUnit > 1) copy_keys_and_values(a, s);
  Attention block = a;
  for (int first = 0; first < a.queries; first += kQueries) {
    const int queries = a.queries - first < kQueries ? a.queries - first : kQueries;
    block.query = static_cast<const typename Arithmetic::Element*>(a.query) + first * a.stride;
    block.context = a.context + first * a.context_stride;
    if (a.bias != nullptr) block.bias = a.bias + first;
    const Window<Arithmetic> window = a.window > 0 ? window_of(block, s, first, first + queries) : Window<Arithmetic>{block, s};
    if (queries > kLanes) {
      Block<Arithmetic, 2>{window.a, window.s, queries}.run(first == 0);
    } else {
      Block<Arithmetic, 1>{window.a, window.s, queries}.run(first == 0);
    }
  }
  if (a.received != nullptr) sum_rows(s.received, a.length, a.received);
}

void attention(const Attention& a, float* scratch) {
#if defined(PRUNETIME_BF16_PAIRS)
  if (a.precision == Precision::bf16) return attention_as<BFloat16>(a, scratch);
#endif
  attention_as<Float32>(a, scratch);
}

}  // namespace
}  // namespace prunetime
