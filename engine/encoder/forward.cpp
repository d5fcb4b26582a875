#include "encoder/forward.h"

#include <algorithm>
#include <chrono>

namespace prunetime {
namespace {

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

void ForwardPass::run(const Batch& batch, int first, int end, float* logits, const Trace& trace, const Start& start) {
  batch_ = &batch;
  first_sequence_ = first;
  first_token_ = batch.offsets[first];
  sequences_ = end - first;
  tokens_ = batch.offsets[end] - first_token_;
  hidden_ = w_.hidden;
  spare_ = w_.spare;
  starts_ = scratch_.starts;
  next_starts_ = scratch_.starts + most_tokens_ + 1;
  origin_ = w_.origin;
  next_origin_ = w_.origin + most_tokens_;
  for (int i = 0; i <= sequences_; ++i) starts_[i] = batch.offsets[first + i] - first_token_;

  Stopwatch watch(trace.sublayer_ns);
  if (start.hidden == nullptr) {
    embed();
  } else {
    resume(start);
  }
  watch.lap(0);
  int slot = 1 + 2 * start.layer;
  for (int i = start.layer; i < config_.layers; ++i) {
    const Layer& layer = model_.layers[static_cast<std::size_t>(i)];
    if (trace.states != nullptr && trace.states[i] != nullptr) save_states(trace.states[i]);
    if (layer.has_attention()) {
      attend(i, *layer.attention);
      watch.lap(slot);
    }
    ++slot;
    if (trace.kept != nullptr) record_kept(trace.kept + static_cast<std::ptrdiff_t>(i) * batch.tokens());
    if (layer.has_ffn()) {
      feed_forward(i, *layer.ffn);
      watch.lap(slot);
    }
    ++slot;
  }
  const std::ptrdiff_t first_row = config_.rows == Rows::all ? first_token_ : first;
  head(logits + first_row * config_.outputs);
  watch.lap(slot);
}

void ForwardPass::embed() {
  float* output = model_.projection ? w_.context : hidden_;
  const auto [first, end] = team_.share(sequences_);
  for (int sequence = first; sequence < end; ++sequence) {
    embed_sequence(starts_[sequence], starts_[sequence + 1], output);
    for (int i = starts_[sequence]; i < starts_[sequence + 1]; ++i) origin_[i] = first_token_ + i;
  }
  if (model_.projection) {
    team_.sync();
    const Matrix& matrix = model_.projection->matrix;
    const Tensor input{Precision::fp32, output, matrix.inner, nullptr, nullptr};
    multiply(input, tokens_, matrix, Activation::identity, {Precision::fp32, hidden_, matrix.outputs, nullptr, nullptr},
             team_.share(matrix.strips()));
  }
  if (pools_in(-1) || model_.projection) {
    team_.sync();
    if (pools_in(-1)) {
      find_pooled_tokens();
      keep_pooled_tokens();
    }
    prepare_input(-1, team_.share(tokens_));
  } else {
    prepare_input(-1, {starts_[first], starts_[end]});
  }
  team_.sync();
}

// Where a family's positions begin after that of padding, padding that is written out in a text has that position, and
// the tokens after it are counted as if it were not there.
void ForwardPass::embed_sequence(int token, int end, float* output) {
  const std::ptrdiff_t stride = row_stride(config_.embedding);
  const std::int32_t* ids = batch_->ids + first_token_;
  const int padding = config_.position_offset - 1;
  int position = config_.position_offset;
  while (token < end) {
    const bool pads = ids[token] == padding;
    int stop = token + 1;
    while (!pads && stop < end && ids[stop] != padding) ++stop;
    const int from = pads ? padding : position;
    kernels_.embed({.ids = ids + token,
                    .types = batch_->types + first_token_ + token,
                    .length = stop - token,
                    .word = model_.word,
                    .position = config_.rotary() ? nullptr : model_.position + from * stride,
                    .token_type = model_.token_type,
                    .output = output + token * stride},
                   model_.embedding_norm);
    position += pads ? 0 : stop - token;
    token = stop;
  }
}

// Takes the hidden states that came into a layer in an earlier pass.
void ForwardPass::resume(const Start& start) {
  const auto share = team_.share(tokens_);
  const std::ptrdiff_t stride = row_stride(config_.hidden);
  const float* from = start.hidden + static_cast<std::ptrdiff_t>(first_token_) * config_.hidden;
  for (int i = share.first; i < share.end; ++i) {
    float* row = hidden_ + i * stride;
    std::copy_n(from + static_cast<std::ptrdiff_t>(i) * config_.hidden, config_.hidden, row);
    std::fill(row + config_.hidden, row + stride, 0.0F);
    origin_[i] = first_token_ + i;
  }
  prepare_input(start.layer - 1, share);
  team_.sync();
}

// Each worker saves the rows that it has written last and will read next.
void ForwardPass::save_states(float* states) const {
  const auto [first, end] = team_.share(tokens_);
  for (int i = first; i < end; ++i) {
    std::copy_n(hidden_ + i * row_stride(config_.hidden), config_.hidden,
                states + static_cast<std::ptrdiff_t>(first_token_ + i) * config_.hidden);
  }
}

// Makes this worker's hidden rows, as they came out of `layer`, what the next matrix reads.
void ForwardPass::prepare_input(int layer, Team::Share share) {
  const Model::Reader next = model_.reader_after(layer);
  normed_apart_ = config_.pre_norm && next.norm != nullptr;
  if (normed_apart_) layer_norm(hidden_, w_.normed, share, *next.norm);
  quantise_input(next.precision, share);
}

// hidden = LayerNorm(hidden + output(input)), the end of a sub-layer, and then what the next matrix reads.
void ForwardPass::add_and_norm(int layer, bool after_ffn, const SublayerOutput& output, const Tensor& input) {
  const Matrix& matrix = output.projection.matrix;
  multiply(input, tokens_, matrix, Activation::identity, {Precision::fp32, w_.update, matrix.outputs, nullptr, nullptr},
           team_.share(matrix.strips()));
  team_.sync();
  const Team::Share share = team_.share(tokens_);
  const Model::Reader next = model_.reader_after(layer, after_ffn);
  normed_apart_ = config_.pre_norm;
  kernels_.add_and_norm({.hidden = hidden_,
                         .normed = input_rows(),
                         .update = w_.update,
                         .update_stride = row_stride(matrix.outputs),
                         .kept = output.kept,
                         .first_token = share.first,
                         .end_token = share.end},
                        config_.pre_norm ? *next.norm : output.norm);
  quantise_input(next.precision, share);
  team_.sync();
}

void ForwardPass::layer_norm(float* from, float* to, Team::Share share, const LayerNorm& norm) {
  kernels_.add_and_norm({.hidden = from,
                         .normed = to,
                         .update = nullptr,
                         .update_stride = 0,
                         .kept = nullptr,
                         .first_token = share.first,
                         .end_token = share.end},
                        norm);
}

// Writes this worker's rows as the next matrix reads them.
void ForwardPass::quantise_input(Precision precision, Team::Share share) {
  if (precision == Precision::fp32) return;
  const Tensor to{precision, w_.input.values, config_.hidden, w_.input.scale, w_.input.zero_point};
  kernels_.quantise({input_rows(), nullptr, config_.hidden, share.first, share.end}, to);
}

// The input of `matrix`, where it is or will be quantised; as fp32 it stays where it is, unless it has to `move`.
Tensor ForwardPass::input_of(const Matrix& matrix, float* fp32, bool move) const {
  const bool stays = matrix.precision == Precision::fp32 && !move;
  return {matrix.precision, stays ? reinterpret_cast<std::byte*>(fp32) : w_.input.values, matrix.inner, w_.input.scale,
          w_.input.zero_point};
}

void ForwardPass::multiply(const Tensor& input, int tokens, const Matrix& matrix, Activation activation,
                           const Tensor& output, Team::Share strips) {
  if (strips.first == strips.end) return;  // others of the team have them
  kernels_.gemm({.input = input,
                 .tokens = tokens,
                 .matrix = matrix,
                 .output = output.values,
                 .output_bytes = kernels_.row_bytes(output.width, output.precision),
                 .output_precision = output.precision,
                 .activation = activation,
                 .first_strip = strips.first,
                 .end_strip = strips.end});
}

// This worker's share of the first `strips` strips of one of the parts of a stacked matrix; empty where others have all.
Team::Share ForwardPass::share_of_part(const Matrix& matrix, int parts, int strips, int part) const {
  const auto [first, end] = team_.share(parts * strips);
  const int from = std::clamp(first - part * strips, 0, strips), to = std::clamp(end - part * strips, from, strips);
  const int start = part * (matrix.strips() / parts);
  return {start + from, start + to};
}

}  // namespace prunetime
