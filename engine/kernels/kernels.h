// What a table of kernels offers. Each ISA has one table, from one translation unit; all of them run the same
// templates (*.inl.h, one for each operation) over their own vector type. What every operation computes is written out in
// float64 in tests/reference.py.
//
// Every output is summed over its inner dimension in one order, whatever its row, tile or batch: same bits always.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/cpu.h"

namespace prunetime {

enum class Precision { fp32, bf16, int8 };

// The inner dimension of a product is walked in groups of 32 bits, of as many numbers as fit. In how many bytes a number
// lies is a table's choice (NumberBytes): where a CPU multiplies no bf16 it is a float, where it multiplies no bytes
// exactly it is 16 bits wide. The values are the same.
constexpr int kGroupBytes = 4;

struct NumberBytes {
  int bf16;  // 2 or 4
  int int8;  // 1 or 2

  constexpr int of(Precision precision) const {
    return precision == Precision::fp32 ? 4 : precision == Precision::bf16 ? bf16 : int8;
  }
};

// Outputs of matrices are padded to multiples of this many.
constexpr int kPad = 32;
constexpr int padded(int width) { return (width + kPad - 1) / kPad * kPad; }

// Bytes from one row of `width` numbers to the next. An odd number of cache lines: rows at a power of two apart would
// share a few sets of the cache. Kernels may read and write whole vectors, up to the end of the row.
constexpr std::ptrdiff_t row_bytes(int width, int number_bytes = sizeof(float)) {
  constexpr std::ptrdiff_t kTwoLines = 128;
  const std::ptrdiff_t used = static_cast<std::ptrdiff_t>(width) * number_bytes;
  return (used + kTwoLines - 1) / kTwoLines * kTwoLines + kTwoLines / 2;
}

// Floats from one row of `width` floats to the next.
constexpr std::ptrdiff_t row_stride(int width) { return row_bytes(width) / 4; }

// rounded_gelu is for results that are rounded to bf16 or to bytes.
enum class Activation { identity, gelu, rounded_gelu, relu, tanh };

// Activations: rows of numbers, Kernels::row_bytes(width, precision) apart, zeros beyond `width` (int8: anything).
// int8 numbers are 0..255 with a scale and a zero point of their row: number = scale * (byte - zero_point). In 16 bits
// lies byte - zero_point, and `zero_point` is 0.
struct Tensor {
  Precision precision;
  void* values;
  int width;
  float* scale;              // int8: [rows]
  std::int32_t* zero_point;  // int8: [rows]
};

// Weights [outputs, inner] as the GEMM reads them. Outputs lie in strips of 32 or 16, and every strip has its own list of
// kept blocks: `stored_groups` groups of the inner dimension each. A dense matrix is one block a strip.
//
// Of a strip, panel after panel (Kernels::panel outputs) holds all its blocks: [blocks][stored_groups][panel] groups.
// `groups`, `end_block` and `weight_sum` are what is multiplied now: all, or a prefix of the inner dimension.
struct Matrix {
  Precision precision = Precision::fp32;
  int outputs = 0;
  int inner = 0;
  int strip = kPad;
  int group_size = 1;  // numbers
  int stored_groups = 0;
  int groups = 0;
  bool dense = true;
  const std::uint32_t* values = nullptr;
  const std::int32_t* first_block = nullptr;  // [strips + 1]
  const std::int32_t* end_block = nullptr;    // [strips]
  const std::int32_t* starts = nullptr;       // [blocks] the group at which a block starts, ascending in a strip
  const float* bias = nullptr;                // [padded(outputs)]
  const float* scale = nullptr;               // int8: [padded(outputs)], weight = scale * byte
  const std::int32_t* weight_sum = nullptr;   // int8: [padded(outputs)], of the bytes over what is multiplied

  int strips() const { return padded(outputs) / strip; }
};

// output[tokens, outputs] = activation(input[tokens, inner] weight^T + bias) for the strips [first, end).
struct Gemm {
  const Tensor& input;  // in the matrix's precision, `inner` wide
  int tokens;
  const Matrix& matrix;
  void* output;
  std::ptrdiff_t output_bytes;  // from one row to the next
  Precision output_precision;   // fp32 or bf16
  Activation activation;
  int first_strip;
  int end_strip;
};

constexpr int kMostQueries = 64;  // that a kernel computes together

// context[queries, head_dim] = softmax(scale (query key^T + bias)) value of one head of one sequence; key and value [length,
// head_dim]. Where `received` [length] is given, it gets what every token was attended to: the sum over the queries.
struct Attention {
  Precision precision;  // of query, key and value, and of the products: fp32, or Kernels::narrow_attention
  const void* query;
  const void* key;
  const void* value;
  std::ptrdiff_t stride;  // numbers
  int queries;
  int length;
  int head_dim;
  float scale;
  const float* bias;  // bias[query - key] is added before the scale, read up to kMostQueries too far; null: none
  int window;         // of queries the bias leaves nothing of keys that are further away; 0: it may be any. Not with `received`
  float* context;
  std::ptrdiff_t context_stride;
  float* received;
};

struct LayerNorm {
  const float* weight;  // padded(width)
  const float* bias;    // padded(width)
  int width;
  float eps;
};

// Rotates the pairs (j, j + head_dim / 2) of every row of queries or keys [count, head_dim] of one head of one sequence by
// the angles of its position.
struct Rotation {
  float* rows;  // of the first position
  std::ptrdiff_t stride;
  int count;
  int head_dim;
  const float* cos_sin;  // [positions][head_dim]: the cosines of the angles, then their sines
};

// output[i, width] = neurons[i, width] * gates[i, width] for i in [first, end), in whole vectors up to padded(width).
struct Gate {
  const float* neurons;
  const float* gates;
  std::ptrdiff_t stride;  // of both
  int width;
  float* output;  // rows of row_stride(width)
  int first;
  int end;
};

// output[tokens, width] = LayerNorm of the sum of the tables' rows.
struct Embedding {
  const std::int32_t* ids;
  const std::int32_t* types;
  int length;
  const float* word;        // rows of row_stride(width)
  const float* position;    // the row of the first token; rows of row_stride(width); null: this family has none
  const float* token_type;  // rows of row_stride(width); null: this family has none
  float* output;            // rows of row_stride(width)
};

// normed[tokens, width] = LayerNorm(hidden + update). Where that is not in place, hidden becomes the sum. Where output rows
// are pruned, `kept` has a bit per hidden index (kPad to a word) and `update` holds only the kept ones, in order; null: all
// are there.
struct Residual {
  float* hidden;        // rows of row_stride(width)
  float* normed;        // rows of row_stride(width)
  const float* update;  // rows of row_stride(kept); null: nothing is added
  std::ptrdiff_t update_stride;
  const std::uint32_t* kept;
  int first_token;
  int end_token;
};

// to[i] = the first `width` numbers of from[rows[i]], for i in [first, end); without `rows`, of from[i]. As fp32 it is a
// copy. Beyond `width`, up to padded(width), `from` holds zeros.
struct Quantise {
  const float* from;  // rows of row_stride(to.width)
  const std::int32_t* rows;
  int width;  // at most to.width
  int first;
  int end;
};

// What Kernels::peak can be asked for; the code is that of the kernels.
enum class Work {
  multiply_fp32,  // multiply-adds
  multiply_bf16,
  multiply_int8,
  gelu_fp32,  // numbers, by the precision in which they are written
  gelu_bf16,
  softmax,
  norm,
  quantise_bf16,
  quantise_int8
};

struct Kernels {
  const char* isa;          // the table's name
  const char* description;  // of the CPUs that it is for
  InstructionSets required;
  int panel;            // outputs that are computed together, of a strip of 32; a strip of 16 has min(panel, 16)
  int groups_multiple;  // a dense matrix's groups are padded to a multiple of this
  Precision narrow_attention;  // the faster one where query, key and value need not be fp32
  NumberBytes number_bytes;

  void (*gemm)(const Gemm&);
  std::size_t (*attention_scratch_floats)(int longest, int head_dim);
  void (*attention)(const Attention&, float* scratch);
  void (*rotate)(const Rotation&);
  void (*gate)(const Gate&);
  void (*embed)(const Embedding&, const LayerNorm&);
  void (*add_and_norm)(const Residual&, const LayerNorm&);
  void (*quantise)(const Quantise&, const Tensor& to);
  void (*release)();  // every thread calls it when its part of a pass is done

  // To be timed: a piece of work on data in the L1 cache, `rounds` times. Returns how many numbers or multiply-adds.
  std::int64_t (*peak)(Work, int rounds);
  // To be timed: reads `floats`, a multiple of 1024, `rounds` times. Returns how many bytes.
  std::int64_t (*read)(const float* from, std::int64_t floats, int rounds);

  int bytes(Precision precision) const { return number_bytes.of(precision); }
  std::ptrdiff_t row_bytes(int width, Precision precision) const { return prunetime::row_bytes(width, bytes(precision)); }
};

extern const Kernels kPortableKernels;
#if defined(PRUNETIME_X86_TABLES)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx2VnniKernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512VnniKernels;
extern const Kernels kAvx512Bf16Kernels;
extern const Kernels kAmxKernels;
extern const Kernels kAmxEmulatedKernels;
#endif

}  // namespace prunetime
