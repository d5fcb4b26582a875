// The forward pass: ids in, logits out.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "base/arena.h"
#include "base/thread_pool.h"
#include "encoder/model.h"

namespace prunetime {

class Encoder {
 public:
  // What a pass tells of itself, where it is asked.
  struct Trace {
    // [2 * layers + 2] nanoseconds that the calling thread spent in [embedding, attention 0, ffn 0, attention 1, ...,
    // head]; what is gone gets 0.
    std::int64_t* sublayer_ns = nullptr;
    // [layers, tokens] 1 where a token is left after a layer.
    std::uint8_t* kept = nullptr;
    // [layers] where the hidden rows [tokens, hidden] that come into a layer are written to, or null.
    float* const* states = nullptr;
  };
  // Where a pass begins: before `layer`, with the `hidden` rows [tokens, hidden] that an earlier pass left as its
  // state; null: at the embedding.
  struct Start {
    int layer = 0;
    const float* hidden = nullptr;
  };

  // Throws Error where the weights are not an encoder of `config`, or `threads` is out of range.
  Encoder(const EncoderConfig& config, const Plan& plan, const Arrays& arrays, int threads, const Kernels& kernels);

  // Runs only the first heads and FFN rows of every layer from now on. Throws Error where there are not so many.
  void select(const std::vector<int>& heads, const std::vector<int>& ffn, const std::vector<double>& tokens) {
    model_.use(heads, ffn, tokens);
  }

  // logits[rows, outputs], or [tokens, outputs] where the head reads all of them.
  // The batch must have passed check(). One call at a time. Allocates nothing.
  // Throws Error where a logit is not a finite number, a state is wanted where not all tokens come in, or tokens are to be
  // skipped where pooling cannot.
  void forward(const Batch& batch, float* logits, const Trace& trace, const Start& start);
  int logit_rows(const Batch& batch) const { return config().rows == Rows::all ? batch.tokens() : batch.rows; }

  const EncoderConfig& config() const { return model_.config; }
  const char* isa() const { return kernels_.isa; }
  int threads() const { return pool_.size(); }
  std::size_t weight_bytes() const { return model_.arena.bytes(); }
  const std::vector<Layer>& layers() const { return model_.layers; }

 private:
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
    QuantisedRows input;     // [tokens][what a matrix reads]
    QuantisedRows pooled;    // [tokens][hidden]
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
  class Chunk;

  void take_workspaces();
  void check_state(int layer) const;
  void check_skipped() const;
  void run_chunks_alone(const Batch& batch, int chunk_tokens, int worker, float* logits, const Trace& trace,
                        const Start& start);
  bool every_worker_gets_whole_sequences(const Batch& batch) const;

  const Kernels& kernels_;
  Model model_;
  ThreadPool pool_;
  const int chunk_tokens_;
  Arena arena_;
  std::vector<Workspace> workspaces_;  // one per worker; a team shares the first
  std::vector<Scratch> scratch_;       // one per worker
  std::atomic<int> next_row_{0};
};

}  // namespace prunetime
