#include "encoder/encoder.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"

namespace prunetime {
namespace {

constexpr int kMostThreads = 256;

// A chunk's activations should stay in the L2 cache while there are enough tokens to pay for streaming the weights.
constexpr int kChunkTokens = 256;

// With fewer tokens for each worker than this, streaming all weights to every worker costs more than meeting often.
constexpr int kTokensToWorkAlone = 48;

int checked_threads(int threads) {
  if (threads < 1 || threads > kMostThreads) {
    throw Error("threads is " + std::to_string(threads) + "; it must be from 1 to " + std::to_string(kMostThreads));
  }
  return threads;
}

}  // namespace

Encoder::Encoder(const ForwardConfig& config, const ForwardPlan& plan, const Arrays& arrays, int threads,
                 const Kernels& kernels)
    : kernels_(kernels),
      model_(config, plan, arrays, kernels),
      pool_(checked_threads(threads)),
      chunk_tokens_(std::max(kChunkTokens, config.longest())) {
  take_workspaces();
  arena_.commit();
  take_workspaces();
}

void Encoder::take_workspaces() {
  workspaces_.clear();
  scratch_.clear();
  const auto tokens = static_cast<std::size_t>(chunk_tokens_);
  const auto floats = [&](int width) { return arena_.take<float>(tokens * static_cast<std::size_t>(row_stride(width))); };
  const auto quantised = [&](int width) -> QuantisedRows {
    return {reinterpret_cast<std::byte*>(floats(width)), arena_.take<float>(tokens), arena_.take<std::int32_t>(tokens)};
  };
  const std::size_t received = config().drops_tokens() ? tokens * static_cast<std::size_t>(config().heads) : 0;
  for (int worker = 0; worker < pool_.size(); ++worker) {
    workspaces_.push_back({.hidden = floats(config().hidden),
                           .spare = floats(config().hidden),
                           .normed = config().pre_norm ? floats(config().hidden) : nullptr,
                           .inner = floats(model_.widest_inner()),
                           .context = floats(model_.widest_input()),
                           .update = floats(model_.widest_head()),
                           .input = quantised(model_.widest_input()),
                           .pooled = quantised(config().hidden),
                           .received = arena_.take<float>(received),
                           .kept = arena_.take<std::int32_t>(tokens),
                           .origin = arena_.take<std::int32_t>(2 * tokens)});
    scratch_.push_back(
        {.attention = arena_.take<float>(kernels_.attention_scratch_floats(config().longest(), config().head_dim)),
         .starts = arena_.take<std::int32_t>(2 * (tokens + 1)),
         .order = arena_.take<std::int32_t>(tokens)});
  }
}

bool Encoder::every_worker_gets_whole_sequences(const Batch& batch) const {
  const int each = batch.tokens() / pool_.size();
  int longest = 0;
  for (int i = 0; i < batch.sequences; ++i) longest = std::max(longest, batch.length(i));
  return each >= kTokensToWorkAlone && longest <= each;
}

void Encoder::check_state(int layer) const {
  bool all = !config().reads_one_token() || layer <= model_.last_attention();
  for (int i = 0; i < layer; ++i) all = all && !model_.plan.drops(i);
  if (!all) throw Error("there is no state before layer " + std::to_string(layer) + ": not all tokens come into it");
}

void Encoder::check_skipped() const {
  if (config().rows == Rows::all) throw Error("skipped tokens are left out of pooling, but this encoder pools none");
  if (model_.plan.drops()) throw Error("this encoder drops tokens; pooling cannot leave out the first ones of a sequence");
}

void Encoder::forward(const Batch& batch, float* logits, const Trace& trace, const Start& start) {
  if (batch.skipped != nullptr) check_skipped();
  if (start.hidden != nullptr) check_state(start.layer);
  for (int i = 0; trace.states != nullptr && i < config().layers; ++i) {
    if (trace.states[i] != nullptr) check_state(i);
  }
  if (trace.sublayer_ns != nullptr) std::fill_n(trace.sublayer_ns, 2 * config().layers + 2, 0);
  if (pool_.size() == 1 || every_worker_gets_whole_sequences(batch)) {
    next_sequence_.store(0);
    const int shares = pool_.size() * ((batch.tokens() - 1) / (pool_.size() * chunk_tokens_) + 1);
    const int chunk_tokens = (batch.tokens() + shares - 1) / shares;
    pool_.run([&](const Team& team) {
      const Trace own{team.index() == 0 ? trace.sublayer_ns : nullptr, trace.kept, trace.states};
      run_chunks_alone(batch, chunk_tokens, team.index(), logits, own, start);
      kernels_.release();
    });
  } else {
    pool_.run([&](const Team& team) {
      const Trace own{team.index() == 0 ? trace.sublayer_ns : nullptr, trace.kept, trace.states};
      ForwardPass pass(model_, kernels_, chunk_tokens_, workspaces_[0], scratch_[static_cast<std::size_t>(team.index())],
                       team);
      for (int first = 0, end; first < batch.sequences; first = end) {
        end = batch.end_of_chunk(first, chunk_tokens_);
        pass.run(batch, first, end, logits, own, start);
        team.sync();
      }
      kernels_.release();
    });
  }
  const std::ptrdiff_t count = static_cast<std::ptrdiff_t>(logit_rows(batch)) * config().outputs;
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    if (!std::isfinite(logits[i])) {
      throw Error((config().rows == Rows::all ? "token " : "sequence ") + std::to_string(i / config().outputs) +
                  " has the logit " + std::to_string(logits[i]) +
                  ": numbers overflowed inside the encoder; its weights are too large");
    }
  }
}

void Encoder::run_chunks_alone(const Batch& batch, int chunk_tokens, int worker, float* logits, const Trace& trace,
                               const Start& start) {
  const auto index = static_cast<std::size_t>(worker);
  ForwardPass pass(model_, kernels_, chunk_tokens_, workspaces_[index], scratch_[index], Team());
  int first = next_sequence_.load();
  while (first < batch.sequences) {
    const int end = batch.end_of_chunk(first, chunk_tokens);
    if (!next_sequence_.compare_exchange_weak(first, end)) continue;  // another worker took it; `first` is now the next
    pass.run(batch, first, end, logits, trace, start);
    first = next_sequence_.load();
  }
}

}  // namespace prunetime
