// An encoder's weights as the kernels read them: packed, padded and in one arena.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/arena.h"
#include "encoder/config.h"
#include "encoder/matrix.h"
#include "encoder/weights.h"
#include "kernels/kernels.h"

namespace prunetime {

// What ends a sub-layer: hidden + projection(...), with the hidden indices that are kept of the output, and the sub-layer's
// LayerNorm. That comes after this step or, where config.pre_norm, before the first.
struct SublayerOutput {
  Linear projection;
  const std::uint32_t* kept = nullptr;  // as Residual::kept
  LayerNorm norm{};                     // without weights where there is none
};

// `heads` and `neurons` are how many are stored, `used_heads` and `used_neurons` how many of them are run now, the first
// ones.
struct AttentionLayer {
  int heads = 0;
  int used_heads = 0;
  Linear query_key_value;  // outputs in that order, each padded to whole strips
  const float* position_bias = nullptr;   // of query - key = 0, of the first head; null: none
  std::ptrdiff_t position_bias_stride = 0;  // from one head to the next; 0: all have one
  int window = 0;                           // sequences that are no longer than it and 1 need no bias
  const float* rotation = nullptr;          // as Rotation::cos_sin of a sequence; null: none
  SublayerOutput output;
};

struct FfnLayer {
  int neurons = 0;
  int used_neurons = 0;
  Linear input;  // where config.gated, of the neurons and of their gates, each padded to whole strips
  SublayerOutput output;
};

// Either sub-layer may be gone: what came in then passes on.
struct Layer {
  std::optional<AttentionLayer> attention;
  std::optional<FfnLayer> ffn;

  bool has_attention() const { return attention && attention->used_heads > 0; }
  bool has_ffn() const { return ffn && ffn->used_neurons > 0; }
};

// Either a matrix and what follows it, or LayerNorm.
struct HeadLayer {
  std::optional<Linear> dense;
  Activation activation = Activation::identity;
  LayerNorm norm{};

  int width() const { return dense ? dense->matrix.outputs : norm.width; }
};

struct Model {
  // Throws Error where the arrays are not an encoder of `config`.
  Model(const ForwardConfig& config, const ForwardPlan& plan, const Arrays& arrays, const Kernels& kernels);

  // Runs only the first heads and FFN neurons of every layer from now on, and keeps these fractions of the tokens. Throws
  // Error where there are not so many.
  void use(const std::vector<int>& heads, const std::vector<int>& ffn, const std::vector<double>& tokens);

  ForwardConfig config;
  ForwardPlan plan;
  Arena arena;
  const float* word = nullptr;  // tables: rows of row_stride(embedding)
  const float* position = nullptr;    // null: none
  const float* token_type = nullptr;  // null: none
  LayerNorm embedding_norm{};
  std::optional<Linear> projection;  // of the embedding, where config.projects()
  std::vector<Layer> layers;
  LayerNorm final_norm{};  // where config.pre_norm
  std::vector<HeadLayer> head;

  // What reads the hidden rows next: its precision and, where config.pre_norm, its LayerNorm; null: none.
  struct Reader {
    Precision precision;
    const LayerNorm* norm;
  };
  // After the attention or the FFN of `layer`; -1: the embedding.
  Reader reader_after(int layer, bool after_ffn = true) const;
  // The last layer that has attention, -1: none. From there on, only one token of each sequence matters to a head that
  // reads no other.
  int last_attention() const;
  int widest_inner() const;  // most numbers between a sub-layer's first and last matrix (query, key and value, or FFN)
  int widest_input() const;  // most numbers that any matrix reads
  int widest_head() const;   // most numbers that a layer of the head reads or writes
};

}  // namespace prunetime
