// An encoder's weights as the kernels read them: packed, padded and in one arena.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/arena.h"
#include "encoder/config.h"
#include "encoder/weights.h"
#include "kernels/kernels.h"

namespace prunetime {

struct Linear {
  int outputs = 0;
  int inner = 0;
  const float* packed = nullptr;
  const float* bias = nullptr;
};

// The last step of a sub-layer: LayerNorm(hidden + output(...)), with the hidden indices that are kept of the output.
struct SublayerEnd {
  Linear output;
  const std::uint32_t* kept = nullptr;  // as Residual::kept
  LayerNorm norm{};
};

struct AttentionLayer {
  int heads = 0;
  Linear query_key_value;  // outputs in that order
  SublayerEnd end;
};

struct FfnLayer {
  Linear input;
  SublayerEnd end;
};

// Either sub-layer may be gone: what came in then passes on.
struct Layer {
  std::optional<AttentionLayer> attention;
  std::optional<FfnLayer> ffn;
};

struct Model {
  // Throws Error where the arrays are not an encoder of `config`.
  Model(const EncoderConfig& config, const Arrays& arrays, const Kernels& kernels);

  EncoderConfig config;
  Arena arena;
  const float* word = nullptr;  // tables: rows of row_stride(hidden)
  const float* position = nullptr;
  const float* token_type = nullptr;  // null: none
  LayerNorm embedding_norm{};
  std::vector<Layer> layers;
  Linear head_dense;
  Linear head_output;

  int widest_inner() const;  // most numbers between a sub-layer's first and last matrix (query, key and value, or FFN)
  int widest_context() const;
};

}  // namespace prunetime
