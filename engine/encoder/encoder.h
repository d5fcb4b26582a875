// An encoder that is ready to run: ids in, logits out, on a pool of threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "base/arena.h"
#include "base/thread_pool.h"
#include "encoder/forward.h"
#include "encoder/model.h"

namespace prunetime {

class Encoder {
 public:
  // Throws Error where the weights are not an encoder of `config`, or `threads` is out of range.
  Encoder(const ForwardConfig& config, const ForwardPlan& plan, const Arrays& arrays, int threads, const Kernels& kernels);

  // Runs only the first heads and FFN neurons of every layer from now on. Throws Error where there are not so many.
  void select(const std::vector<int>& heads, const std::vector<int>& ffn, const std::vector<double>& tokens) {
    model_.use(heads, ffn, tokens);
  }

  // logits[rows, outputs], or [tokens, outputs] where the head reads all of them.
  // The batch must have passed check(). One call at a time. Allocates nothing.
  // Throws Error where a logit is not a finite number, a state is wanted where not all tokens come in, or tokens are to be
  // skipped where pooling cannot.
  void forward(const Batch& batch, float* logits, const Trace& trace, const Start& start);
  int logit_rows(const Batch& batch) const { return config().rows == Rows::all ? batch.tokens() : batch.sequences; }

  const ForwardConfig& config() const { return model_.config; }
  const char* isa() const { return kernels_.isa; }
  int threads() const { return pool_.size(); }
  std::size_t weight_bytes() const { return model_.arena.bytes(); }
  const std::vector<Layer>& layers() const { return model_.layers; }

 private:
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
  std::atomic<int> next_sequence_{0};
};

}  // namespace prunetime
