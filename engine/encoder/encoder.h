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
  // Throws Error where the weights are not an encoder of `config`, or `threads` is out of range.
  Encoder(const EncoderConfig& config, const Arrays& arrays, int threads, const Kernels& kernels);

  // logits[rows, outputs]. Where `sublayer_ns` [2 * layers + 2] is given, it gets the nanoseconds that the calling
  // thread spent in [embedding, attention 0, ffn 0, attention 1, ..., head]; what is gone gets 0.
  // The batch must have passed check(). One call at a time. Allocates nothing.
  // Throws Error where a logit is not a finite number.
  void forward(const Batch& batch, float* logits, std::int64_t* sublayer_ns);

  const EncoderConfig& config() const { return model_.config; }
  const char* isa() const { return kernels_.isa; }
  int threads() const { return pool_.size(); }
  std::size_t weight_bytes() const { return model_.arena.bytes(); }
  const std::vector<Layer>& layers() const { return model_.layers; }

 private:
  // Activations of one chunk of tokens, each with rows of row_stride(...).
  struct Workspace {
    float* hidden;   // [tokens][hidden]
    float* inner;    // [tokens][query, key and value, or FFN]
    float* context;  // [tokens][heads * head_dim]
    float* update;   // [tokens][hidden]
  };
  class Chunk;

  void take_workspaces();
  void run_chunks_alone(const Batch& batch, int chunk_tokens, int worker, float* logits, std::int64_t* sublayer_ns);
  bool every_worker_gets_whole_sequences(const Batch& batch) const;

  const Kernels& kernels_;
  Model model_;
  ThreadPool pool_;
  const int chunk_tokens_;
  Arena arena_;
  std::vector<Workspace> workspaces_;  // one per worker; a team shares the first
  std::vector<float*> scratch_;        // of attention, one per worker
  std::atomic<int> next_row_{0};
};

}  // namespace prunetime
