// What an encoder is besides its weights, and what it is given to run on.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace prunetime {

// Which rows the head reads: every token's, or one of each sequence, which is its first or last token's or is pooled from
// all of its tokens' (weighted_mean: by 1, 2, ... from the first token on).
enum class Rows { first, last, mean, max, mean_sqrt_len, weighted_mean, all };

// A layer of the head: a matrix with a bias and an activation, or LayerNorm.
enum class HeadLayerKind { dense, norm };

struct HeadLayerConfig {
  std::string name;  // of its arrays, but for .weight and .bias
  HeadLayerKind kind;
  int width;  // numbers that come out
  Activation activation;
  double eps;

  bool is_norm() const { return kind == HeadLayerKind::norm; }
};

// Sizes, and the closed set of differences between the families of the BERT family.
struct ForwardConfig {
  int layers;
  int embedding;  // width of the tables; where it is not `hidden`, a matrix projects it there
  int hidden;
  int heads;     // at most; how many a layer has, its weights say
  int head_dim;
  int ffn;       // at most
  int vocabulary;
  int positions;
  int position_offset;  // position of a sequence's first token
  int token_types;      // 0: the family has none
  int outputs;
  double layer_norm_eps;
  bool relative_positions;  // every head adds to its scores what it has learned of the distance
  std::vector<double> rotary_theta;  // of every layer the base of its angles; empty: positions are a table
  std::vector<int> rotary_window;    // of every layer how far away a token may be that is attended to; 0: any
  bool pre_norm;   // LayerNorm before every sub-layer but the first, and before the head; otherwise after the residual
  bool gated;      // FFN neurons are multiplied by those of a third matrix
  Rows rows;
  std::vector<HeadLayerConfig> head;  // after the last one there are `outputs` numbers; empty: the rows as they are
  bool normalize;                     // what comes out is scaled to length 1
  int separator;  // a token id that is never dropped while another token can be; -1: none

  bool projects() const { return embedding != hidden; }
  bool rotary() const { return !rotary_theta.empty(); }
  // Whether one token's row of each sequence is read, and no other after the last attention.
  bool reads_one_token() const { return rows == Rows::first || rows == Rows::last; }
  bool pools() const { return !reads_one_token() && rows != Rows::all; }
  bool drops_tokens() const { return rows == Rows::first && !relative_positions && !rotary(); }
  int longest() const { return positions - position_offset; }
  void check() const;  // throws Error
};

// How the weights are run.
struct ForwardPlan {
  std::map<std::string, Precision> precision;  // by matrix ("layers.0.query"); fp32 where it is not named
  std::vector<std::string> dense;              // matrices that are multiplied dense, also where they are stored in blocks
  std::vector<double> tokens;                  // of every layer: the fraction that it keeps

  void check(const ForwardConfig& config) const;  // throws Error
  Precision of(const std::string& matrix) const;
  bool is_dense(const std::string& matrix) const;
  bool drops(int layer) const { return tokens[static_cast<std::size_t>(layer)] < 1.0; }
  bool drops() const;
  // Tokens that `layer` leaves of `length`.
  int tokens_kept(int layer, int length) const;
};

// Sequences back to back: sequence i is ids[offsets[i]] .. ids[offsets[i + 1]]. Pooling leaves out its first skipped[i]
// tokens; null: none.
struct Batch {
  const std::int32_t* ids;
  const std::int32_t* types;
  const std::int32_t* offsets;
  int sequences;
  const std::int32_t* skipped = nullptr;

  int tokens() const { return offsets[sequences]; }
  int length(int sequence) const { return offsets[sequence + 1] - offsets[sequence]; }
  // The sequence after the last that still fits into `tokens` tokens with the `first`, which always does.
  int end_of_chunk(int first, int tokens) const;
  // `tokens` is how many ids and types there are. Throws Error where the encoder could not run this batch.
  void check(const ForwardConfig& config, std::int64_t tokens) const;
};

}  // namespace prunetime
