// What an encoder is besides its weights, and what it is given to run on.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace prunetime {

// Sizes, and the closed set of differences between the families of the BERT family.
struct EncoderConfig {
  int layers;
  int hidden;
  int heads;     // at most; how many a layer has, its weights say
  int head_dim;
  int ffn;       // at most
  int vocabulary;
  int positions;
  int position_offset;  // position of a sequence's first token
  int token_types;      // 0: the family has none
  int outputs;
  float layer_norm_eps;
  Activation head_activation;

  int longest() const { return positions - position_offset; }
  void check() const;  // throws Error
};

// Sequences back to back: sequence i is ids[offsets[i]] .. ids[offsets[i + 1]].
struct Batch {
  const std::int32_t* ids;
  const std::int32_t* types;
  const std::int32_t* offsets;
  int rows;

  int tokens() const { return offsets[rows]; }
  int length(int row) const { return offsets[row + 1] - offsets[row]; }
  // The row after the last that still fits into `tokens` tokens with `first_row`, which always does.
  int end_of_chunk(int first_row, int tokens) const;
  // `tokens` is how many ids and types there are. Throws Error where the encoder could not run this batch.
  void check(const EncoderConfig& config, std::int64_t tokens) const;
};

}  // namespace prunetime
