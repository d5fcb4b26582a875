// What a table of kernels offers. Each ISA has one table, from one translation unit; all of them run the same
// templates (*.inl.h) over their own vector type.
//
// Every output is summed over its inner dimension in one order, whatever its row, tile or batch: same bits always.
#pragma once

#include <cstddef>
#include <cstdint>

namespace prunetime {

// Buffers of floats that kernels read and write have rows of row_stride(width) floats and hold zeros beyond `width`,
// so that kernels handle whole vectors and whole panels.
constexpr int kPad = 32;

constexpr std::ptrdiff_t padded(int width) { return (static_cast<std::ptrdiff_t>(width) + kPad - 1) / kPad * kPad; }

// An odd number of cache lines: rows at a power of two apart would share a few sets of the cache.
constexpr std::ptrdiff_t row_stride(int width) { return padded(width) + kPad / 2; }

enum class Activation { identity, gelu, relu, tanh };

// output[tokens, outputs] = activation(input[tokens, inner] weight[outputs, inner]^T + bias), panels [first, end).
struct Gemm {
  const float* input;
  std::ptrdiff_t input_stride;
  int tokens;
  int inner;
  const float* packed;  // by Kernels::pack
  const float* bias;    // padded(outputs)
  float* output;
  std::ptrdiff_t output_stride;
  int first_panel;
  int end_panel;
  Activation activation;
};

// context[length, head_dim] = softmax(scale query key^T) value of one head of one sequence; all [length, head_dim].
struct Attention {
  const float* query;
  const float* key;
  const float* value;
  std::ptrdiff_t stride;
  int length;
  int head_dim;
  float scale;
  float* context;
  std::ptrdiff_t context_stride;
  float* received = nullptr;  // [length], written: the probability that each key got, summed over the queries
};

struct LayerNorm {
  const float* weight;  // padded(width)
  const float* bias;    // padded(width)
  int width;
  float eps;
};

// output[tokens, width] = LayerNorm of the sum of the tables' rows.
struct Embedding {
  const std::int32_t* ids;
  const std::int32_t* types;
  int length;
  const float* word;        // rows of row_stride(width)
  const float* position;    // the row of the first token; rows of row_stride(width)
  const float* token_type;  // rows of row_stride(width); null: this family has none
  float* output;            // rows of row_stride(width)
};

// hidden[tokens, width] = LayerNorm(hidden + update), in place. Where output rows are pruned, `kept` has a bit per
// hidden index (kPad to a word) and `update` holds only the kept ones, in order; null: all are there.
struct Residual {
  float* hidden;        // rows of row_stride(width)
  const float* update;  // rows of row_stride(kept)
  std::ptrdiff_t update_stride;
  const std::uint32_t* kept;
  int first_token;
  int end_token;
};

struct Kernels {
  const char* isa;
  int panel;  // outputs that are computed together; divides kPad

  std::size_t (*packed_floats)(int outputs, int inner);
  void (*pack)(const float* weight, int outputs, int inner, float* packed);
  void (*gemm)(const Gemm&);
  std::size_t (*attention_scratch_floats)(int longest, int head_dim);
  void (*attention)(const Attention&, float* scratch);
  void (*embed)(const Embedding&, const LayerNorm&);
  void (*add_and_norm)(const Residual&, const LayerNorm&);

  int panels(int outputs) const { return (outputs + panel - 1) / panel; }
};

extern const Kernels kPortableKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

}  // namespace prunetime
