#include "encoder/encoder.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

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

// Adds the time since the last lap to a slot; does nothing without slots.
class Stopwatch {
 public:
  explicit Stopwatch(std::int64_t* nanoseconds) : nanoseconds_(nanoseconds) {
    if (nanoseconds_ != nullptr) last_ = Clock::now();
  }
  void lap(int slot) {
    if (nanoseconds_ == nullptr) return;
    const auto now = Clock::now();
    nanoseconds_[slot] += std::chrono::duration_cast<std::chrono::nanoseconds>(now - last_).count();
    last_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::int64_t* nanoseconds_;
  Clock::time_point last_;
};

}  // namespace

// One pass of some whole sequences through all layers, by one worker or by a team that splits every step's outputs.
class Encoder::Chunk {
 public:
  Chunk(const Encoder& encoder, const Workspace& workspace, float* scratch, Team team)
      : model_(encoder.model_), kernels_(encoder.kernels_), w_(workspace), scratch_(scratch), team_(team) {}

  void run(const Batch& batch, int first_row, int end_row, float* logits, std::int64_t* sublayer_ns) {
    batch_ = &batch;
    first_row_ = first_row;
    rows_ = end_row - first_row;
    tokens_ = batch.offsets[end_row] - batch.offsets[first_row];
    Stopwatch watch(sublayer_ns);
    int slot = 0;
    embed();
    watch.lap(slot++);
    for (const Layer& layer : model_.layers) {
      if (layer.attention) {
        attend(*layer.attention);
        watch.lap(slot);
      }
      ++slot;
      if (layer.ffn) {
        feed_forward(*layer.ffn);
        watch.lap(slot);
      }
      ++slot;
    }
    head(logits + static_cast<std::ptrdiff_t>(first_row) * model_.config.outputs);
    watch.lap(slot);
  }

 private:
  int start(int row) const { return batch_->offsets[first_row_ + row] - batch_->offsets[first_row_]; }

  void embed() {
    const EncoderConfig& config = model_.config;
    const std::ptrdiff_t stride = row_stride(config.hidden);
    const auto [first, end] = team_.share(rows_);
    for (int row = first; row < end; ++row) {
      const int token = batch_->offsets[first_row_ + row];
      kernels_.embed({.ids = batch_->ids + token,
                      .types = batch_->types + token,
                      .length = batch_->length(first_row_ + row),
                      .word = model_.word,
                      .position = model_.position + config.position_offset * stride,
                      .token_type = model_.token_type,
                      .output = w_.hidden + start(row) * stride},
                     model_.embedding_norm);
    }
    team_.meet();
  }

  void attend(const AttentionLayer& layer) {
    const int head_dim = model_.config.head_dim;
    const int inner = layer.heads * head_dim;
    multiply(w_.hidden, tokens_, layer.query_key_value, w_.inner);
    const std::ptrdiff_t stride = row_stride(3 * inner);
    const auto [first, end] = team_.share(rows_ * layer.heads);
    for (int item = first; item < end; ++item) {
      const int row = item / layer.heads;
      const int column = item % layer.heads * head_dim;
      const float* query = w_.inner + start(row) * stride + column;
      kernels_.attention({.query = query,
                          .key = query + inner,
                          .value = query + 2 * inner,
                          .stride = stride,
                          .length = batch_->length(first_row_ + row),
                          .head_dim = head_dim,
                          .scale = 1.0F / std::sqrt(static_cast<float>(head_dim)),
                          .context = w_.context + start(row) * row_stride(inner) + column,
                          .context_stride = row_stride(inner)},
                         scratch_);
    }
    team_.meet();
    finish(layer.end, w_.context);
  }

  void feed_forward(const FfnLayer& layer) {
    multiply(w_.hidden, tokens_, layer.input, w_.inner, Activation::gelu);
    finish(layer.end, w_.inner);
  }

  void finish(const SublayerEnd& end, const float* input) {
    multiply(input, tokens_, end.output, w_.update);
    const auto [first_token, end_token] = team_.share(tokens_);
    kernels_.add_and_norm({.hidden = w_.hidden,
                           .update = w_.update,
                           .update_stride = row_stride(end.output.outputs),
                           .kept = end.kept,
                           .first_token = first_token,
                           .end_token = end_token},
                          end.norm);
    team_.meet();
  }

  void head(float* logits) {
    const int hidden = model_.config.hidden;
    const std::ptrdiff_t stride = row_stride(hidden);
    const auto [first, end] = team_.share(rows_);
    for (int row = first; row < end; ++row) {
      std::copy_n(w_.hidden + start(row) * stride, hidden, w_.context + row * stride);
    }
    team_.meet();
    multiply(w_.context, rows_, model_.head_dense, w_.update, model_.config.head_activation);
    multiply(w_.update, rows_, model_.head_output, w_.inner);
    if (team_.index() != 0) return;
    const int outputs = model_.config.outputs;
    for (int row = 0; row < rows_; ++row) {
      std::copy_n(w_.inner + row * row_stride(outputs), outputs, logits + static_cast<std::ptrdiff_t>(row) * outputs);
    }
  }

  void multiply(const float* input, int tokens, const Linear& linear, float* output,
                Activation activation = Activation::identity) {
    const auto [first_panel, end_panel] = team_.share(kernels_.panels(linear.outputs));
    kernels_.gemm({.input = input,
                   .input_stride = row_stride(linear.inner),
                   .tokens = tokens,
                   .inner = linear.inner,
                   .packed = linear.packed,
                   .bias = linear.bias,
                   .output = output,
                   .output_stride = row_stride(linear.outputs),
                   .first_panel = first_panel,
                   .end_panel = end_panel,
                   .activation = activation});
    team_.meet();
  }

  const Model& model_;
  const Kernels& kernels_;
  const Workspace& w_;
  float* scratch_;
  const Team team_;
  const Batch* batch_ = nullptr;
  int first_row_ = 0;
  int rows_ = 0;
  int tokens_ = 0;
};

Encoder::Encoder(const EncoderConfig& config, const Arrays& arrays, int threads, const Kernels& kernels)
    : kernels_(kernels),
      model_(config, arrays, kernels),
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
  const auto activations = [&](int width) {
    return arena_.take<float>(tokens * static_cast<std::size_t>(row_stride(width)));
  };
  for (int worker = 0; worker < pool_.size(); ++worker) {
    workspaces_.push_back({.hidden = activations(config().hidden),
                           .inner = activations(model_.widest_inner()),
                           .context = activations(model_.widest_context()),
                           .update = activations(config().hidden)});
    scratch_.push_back(
        arena_.take<float>(kernels_.attention_scratch_floats(config().longest(), config().head_dim)));
  }
}

bool Encoder::every_worker_gets_whole_sequences(const Batch& batch) const {
  const int each = batch.tokens() / pool_.size();
  int longest = 0;
  for (int row = 0; row < batch.rows; ++row) longest = std::max(longest, batch.length(row));
  return each >= kTokensToWorkAlone && longest <= each;
}

void Encoder::forward(const Batch& batch, float* logits, std::int64_t* sublayer_ns) {
  if (sublayer_ns != nullptr) std::fill_n(sublayer_ns, 2 * config().layers + 2, 0);
  if (pool_.size() == 1 || every_worker_gets_whole_sequences(batch)) {
    next_row_.store(0);
    const int shares = pool_.size() * ((batch.tokens() - 1) / (pool_.size() * chunk_tokens_) + 1);
    const int chunk_tokens = (batch.tokens() + shares - 1) / shares;
    pool_.run([&](const Team& team) {
      run_chunks_alone(batch, chunk_tokens, team.index(), logits, team.index() == 0 ? sublayer_ns : nullptr);
    });
  } else {
    pool_.run([&](const Team& team) {
      const auto worker = static_cast<std::size_t>(team.index());
      Chunk chunk(*this, workspaces_[0], scratch_[worker], team);
      for (int first = 0, end; first < batch.rows; first = end) {
        end = batch.end_of_chunk(first, chunk_tokens_);
        chunk.run(batch, first, end, logits, team.index() == 0 ? sublayer_ns : nullptr);
        team.meet();
      }
    });
  }
  const std::ptrdiff_t count = static_cast<std::ptrdiff_t>(batch.rows) * config().outputs;
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    if (!std::isfinite(logits[i])) {
      throw Error("sequence " + std::to_string(i / config().outputs) + " has the logit " + std::to_string(logits[i]) +
                  ": numbers overflowed inside the encoder; its weights are too large");
    }
  }
}

void Encoder::run_chunks_alone(const Batch& batch, int chunk_tokens, int worker, float* logits,
                               std::int64_t* sublayer_ns) {
  const auto index = static_cast<std::size_t>(worker);
  Chunk chunk(*this, workspaces_[index], scratch_[index], Team());
  int first = next_row_.load();
  while (first < batch.rows) {
    const int end = batch.end_of_chunk(first, chunk_tokens);
    if (!next_row_.compare_exchange_weak(first, end)) continue;  // another worker took it; `first` is now the next
    chunk.run(batch, first, end, logits, sublayer_ns);
    first = next_row_.load();
  }
}

}  // namespace prunetime
