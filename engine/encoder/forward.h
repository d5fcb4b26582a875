// The forward pass of some whole sequences through all layers: forward.cpp, and its steps in attention.cpp,
// feed_forward.cpp, tokens.cpp (which tokens go on) and head.cpp. No virtual call, no allocation.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "encoder/model.h"
#include "kernels/kernels.h"

namespace prunetime {

// What a pass tells of itself, where it is asked.
struct Trace {
  // [2 * layers + 2] nanoseconds that the calling thread spent in [embedding, attention 0, ffn 0, attention 1, ...,
  // head]; what is gone gets 0.
  std::int64_t* sublayer_ns = nullptr;
  // [layers, tokens] 1 where a token is left after a layer.
  std::uint8_t* kept = nullptr;
  // [layers] where the hidden states [tokens, hidden] that come into a layer are written to, or null.
  float* const* states = nullptr;
};

// Where a pass begins: before `layer`, with the `hidden` states [tokens, hidden] that an earlier pass saved there; null:
// at the embedding.
struct Start {
  int layer = 0;
  const float* hidden = nullptr;
};

// Rows of numbers in the precision that the next matrix reads.
struct QuantisedRows {
  std::byte* values;
  float* scale;
  std::int32_t* zero_point;
};

// Activations of one chunk of tokens.
struct Workspace {
  float* hidden;         // [tokens][hidden]
  float* spare;          // [tokens][hidden]
  float* normed;         // [tokens][hidden] where config.pre_norm
  float* inner;          // [tokens][query, key and value, or FFN]
  float* context;        // [tokens][heads * head_dim]
  float* update;         // [tokens][hidden, or what a layer of the head reads or writes]
  QuantisedRows input;   // [tokens][what a matrix reads]
  QuantisedRows pooled;  // [tokens][hidden]
  float* received;       // [heads][tokens] attention, where tokens can be dropped
  std::int32_t* kept;    // [tokens]
  std::int32_t* origin;  // [2][tokens] which token of the batch a row is
};

// What every worker has for itself.
struct Scratch {
  float* attention;
  std::int32_t* starts;  // [2][tokens + 1] of the sequences
  std::int32_t* order;   // [tokens]; once no more are dropped, of each sequence the token whose row the head reads
};

// One worker's view of a pass, which it does alone or in a team that splits every step.
class ForwardPass {
 public:
  ForwardPass(const Model& model, const Kernels& kernels, int most_tokens, const Workspace& workspace,
              const Scratch& scratch, Team team)
      : model_(model),
        config_(model.config),
        kernels_(kernels),
        most_tokens_(most_tokens),
        last_attention_(model.last_attention()),
        w_(workspace),
        scratch_(scratch),
        team_(team) {}

  // Runs the sequences [first, end) of a batch, which have at most `most_tokens` tokens. `logits` are those of the batch.
  void run(const Batch& batch, int first, int end, float* logits, const Trace& trace, const Start& start);

 private:
  int length(int sequence) const { return starts_[sequence + 1] - starts_[sequence]; }
  // How many of the first tokens of a sequence pooling leaves out.
  int skipped(int sequence) const {
    return batch_->skipped == nullptr ? 0 : batch_->skipped[first_sequence_ + sequence];
  }
  bool skips_all(int sequence) const { return skipped(sequence) >= batch_->length(first_sequence_ + sequence); }
  // Whether a head that reads one token's row of each sequence needs no others from this layer on.
  bool pools_in(int layer) const { return config_.reads_one_token() && layer == last_attention_; }

  // forward.cpp: what comes before the layers, and what ends every sub-layer.
  void embed();
  void embed_sequence(int token, int end, float* output);
  void resume(const Start& start);
  void save_states(float* states) const;
  void prepare_input(int layer, Team::Share share);
  void add_and_norm(int layer, bool after_ffn, const SublayerOutput& output, const Tensor& input);
  void layer_norm(float* from, float* to, Team::Share share, const LayerNorm& norm);

  // attention.cpp
  void attend(int index, const AttentionLayer& layer);
  Tensor project_query_key_value(int index, const AttentionLayer& layer);
  void attend_heads(int index, const AttentionLayer& layer, const Tensor& query_key_value);
  void attend_head(int index, const AttentionLayer& layer, const Tensor& query_key_value, int sequence, int head);
  void project_context(int index, const AttentionLayer& layer);

  // feed_forward.cpp
  void feed_forward(int index, const FfnLayer& layer);
  Tensor activated_neurons(const FfnLayer& layer, int strips, Activation gelu);
  Tensor gated_neurons(const FfnLayer& layer, int strips, Activation gelu);

  // tokens.cpp
  void find_pooled_tokens() const;
  void keep_pooled_tokens();
  void drop_tokens(int index, int heads);
  void choose_tokens(int sequence, int heads);
  void gather_rows(const std::int32_t* from);
  void record_kept(std::uint8_t* kept) const;

  // head.cpp
  void pool();
  void max_pool(int first, int end, float* pooled) const;
  void mean_pool(int sequence, float* pooled) const;
  void clear_skipped_rows();
  void head(float* logits);
  void write_logits(const float* rows, int width, float* logits) const;

  // The rows that the next matrix reads, in fp32.
  float* input_rows() const { return normed_apart_ ? w_.normed : hidden_; }
  Tensor input_of(const Matrix& matrix, float* fp32, bool move = false) const;
  void quantise_input(Precision precision, Team::Share share);
  void multiply(const Tensor& input, int tokens, const Matrix& matrix, Activation activation, const Tensor& output,
                Team::Share strips);
  Team::Share share_of_part(const Matrix& matrix, int parts, int strips, int part) const;

  const Model& model_;
  const ForwardConfig& config_;
  const Kernels& kernels_;
  const int most_tokens_;
  const int last_attention_;
  const Workspace& w_;
  const Scratch& scratch_;
  const Team team_;
  const Batch* batch_ = nullptr;
  int first_sequence_ = 0;
  int first_token_ = 0;
  int sequences_ = 0;
  int tokens_ = 0;
  float* hidden_ = nullptr;
  float* spare_ = nullptr;
  bool normed_apart_ = false;       // the rows in w_.normed are read next
  std::int32_t* starts_ = nullptr;  // of the sequences' rows, [rows + 1]
  std::int32_t* next_starts_ = nullptr;
  std::int32_t* origin_ = nullptr;
  std::int32_t* next_origin_ = nullptr;
};

}  // namespace prunetime
