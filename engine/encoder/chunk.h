// A pass through the layers, step by step. Included by encoder.cpp alone.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>

#include "encoder/encoder.h"

namespace prunetime {

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

// One pass of some whole sequences through all layers, by one worker or by a team that splits every step.
class Encoder::Chunk {
 public:
  Chunk(const Encoder& encoder, const Workspace& workspace, const Scratch& scratch, Team team)
      : model_(encoder.model_),
        config_(encoder.model_.config),
        kernels_(encoder.kernels_),
        most_tokens_(encoder.chunk_tokens_),
        last_attention_(encoder.model_.last_attention()),
        w_(workspace),
        scratch_(scratch),
        team_(team) {}

  void run(const Batch& batch, int first_row, int end_row, float* logits, const Trace& trace, const Start& start) {
    batch_ = &batch;
    first_row_ = first_row;
    first_token_ = batch.offsets[first_row];
    rows_ = end_row - first_row;
    tokens_ = batch.offsets[end_row] - first_token_;
    hidden_ = w_.hidden;
    spare_ = w_.spare;
    starts_ = scratch_.starts;
    next_starts_ = scratch_.starts + most_tokens_ + 1;
    origin_ = w_.origin;
    next_origin_ = w_.origin + most_tokens_;
    for (int row = 0; row <= rows_; ++row) starts_[row] = batch.offsets[first_row + row] - first_token_;

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
      if (trace.states != nullptr && trace.states[i] != nullptr) leave(trace.states[i]);
      if (layer.has_attention()) {
        attend(i, *layer.attention);
        watch.lap(slot);
      }
      ++slot;
      if (trace.kept != nullptr) note_kept(trace.kept + static_cast<std::ptrdiff_t>(i) * batch.tokens());
      if (layer.has_ffn()) {
        feed_forward(i, *layer.ffn);
        watch.lap(slot);
      }
      ++slot;
    }
    const int first = config_.rows == Rows::all ? first_token_ : first_row;
    head(logits + static_cast<std::ptrdiff_t>(first) * config_.outputs);
    watch.lap(slot);
  }

 private:
  int length(int row) const { return starts_[row + 1] - starts_[row]; }
  // How many of the first tokens of a sequence pooling leaves out.
  int skipped(int row) const { return batch_->skipped == nullptr ? 0 : batch_->skipped[first_row_ + row]; }
  bool skips_all(int row) const { return skipped(row) >= batch_->length(first_row_ + row); }
  // Whether a head that reads one token's row of each sequence needs no others from this layer on.
  bool pools_in(int layer) const { return config_.reads_one_token() && layer == last_attention_; }
  // What the next matrix reads, before it is quantised.
  float* read() const { return normed_apart_ ? w_.normed : hidden_; }

  // Where a family's positions begin after that of padding, padding that is written out in a text has that position, and
  // the tokens after it are counted as if it were not there.
  void embed_row(int token, int end, float* output) {
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

  void embed() {
    float* output = model_.projection ? w_.context : hidden_;
    const auto [first, end] = team_.share(rows_);
    for (int row = first; row < end; ++row) {
      embed_row(starts_[row], starts_[row + 1], output);
      for (int i = starts_[row]; i < starts_[row + 1]; ++i) origin_[i] = first_token_ + i;
    }
    if (model_.projection) {
      team_.meet();
      const Matrix& matrix = model_.projection->matrix;
      const Tensor input{Precision::fp32, reinterpret_cast<std::byte*>(output), matrix.inner, nullptr, nullptr};
      multiply(input, tokens_, matrix, Activation::identity, {Precision::fp32, hidden_, matrix.outputs, nullptr, nullptr},
               team_.share(matrix.strips()));
    }
    if (pools_in(-1) || model_.projection) {
      team_.meet();
      if (pools_in(-1)) {
        find_pooled_tokens();
        keep_pooled_tokens();
      }
      begin(-1, team_.share(tokens_));
    } else {
      begin(-1, {starts_[first], starts_[end]});
    }
    team_.meet();
  }

  // Makes this worker's hidden rows, as they came out of `layer`, what the next matrix reads.
  void begin(int layer, Team::Share share) {
    const Model::Reader next = model_.reader_after(layer);
    normed_apart_ = config_.pre_norm && next.norm != nullptr;
    if (normed_apart_) normalise(hidden_, w_.normed, share, *next.norm);
    quantise_input(next.precision, share);
  }

  void normalise(float* from, float* to, Team::Share share, const LayerNorm& norm) {
    kernels_.add_and_norm({.hidden = from,
                           .normed = to,
                           .update = nullptr,
                           .update_stride = 0,
                           .kept = nullptr,
                           .first_token = share.first,
                           .end_token = share.end},
                          norm);
  }

  // The hidden rows as they came into a layer in an earlier pass.
  void resume(const Start& start) {
    const auto share = team_.share(tokens_);
    const std::ptrdiff_t stride = row_stride(config_.hidden);
    const float* from = start.hidden + static_cast<std::ptrdiff_t>(first_token_) * config_.hidden;
    for (int i = share.first; i < share.end; ++i) {
      float* row = hidden_ + i * stride;
      std::copy_n(from + static_cast<std::ptrdiff_t>(i) * config_.hidden, config_.hidden, row);
      std::fill(row + config_.hidden, row + stride, 0.0F);
      origin_[i] = first_token_ + i;
    }
    begin(start.layer - 1, share);
    team_.meet();
  }

  // Each worker writes the rows that it has normalised last and will normalise next.
  void leave(float* state) const {
    const auto [first, end] = team_.share(tokens_);
    for (int i = first; i < end; ++i) {
      std::copy_n(hidden_ + i * row_stride(config_.hidden), config_.hidden,
                  state + static_cast<std::ptrdiff_t>(first_token_ + i) * config_.hidden);
    }
  }

  void attend(int index, const AttentionLayer& layer) {
    const int head_dim = config_.head_dim;
    const Matrix& projection = layer.query_key_value.matrix;
    const Matrix& output = layer.end.output.matrix;
    const int part = projection.outputs / 3;  // where key and value start
    const bool pools = pools_in(index);
    const Tensor rows = projected(projection);
    project(layer, pools, rows);

    const std::ptrdiff_t number = kernels_.bytes(rows.precision);
    const std::ptrdiff_t stride = kernels_.row_bytes(projection.outputs, rows.precision) / number;
    const bool drops = model_.plan.drops(index) && !pools;
    const int width = layer.used_heads * head_dim;
    const auto [first, end] = team_.share(rows_ * layer.used_heads);
    for (int item = first; item < end; ++item) {
      const int row = item / layer.used_heads;
      const int head = item % layer.used_heads;
      const int first_query = pools ? row : starts_[row];
      const int queries = pools ? 1 : length(row);
      const int place = pools ? scratch_.order[row] - starts_[row] : 0;  // of the first query
      const auto* query = static_cast<const std::byte*>(rows.values) + head * head_dim * number;
      const std::byte* key = query + (starts_[row] * stride + part) * number;
      float* context = w_.context + first_query * row_stride(output.inner);
      if (layer.rotation != nullptr) {  // a worker turns what no other one reads
        float* of_query = static_cast<float*>(rows.values) + head * head_dim;
        float* of_key = of_query + starts_[row] * stride + part;
        const float* turns = layer.rotation + static_cast<std::ptrdiff_t>(place) * head_dim;
        kernels_.rotate({of_query + first_query * stride, stride, queries, head_dim, turns});
        kernels_.rotate({of_key, stride, length(row), head_dim, layer.rotation});
      }
      const bool has_bias = layer.position_bias != nullptr && length(row) > layer.window + 1;
      kernels_.attention(
          {.precision = rows.precision,
           .query = query + first_query * stride * number,
           .key = key,
           .value = key + part * number,
           .stride = stride,
           .queries = queries,
           .length = length(row),
           .head_dim = head_dim,
           .scale = 1.0F / std::sqrt(static_cast<float>(head_dim)),
           .bias = has_bias ? layer.position_bias + head * layer.position_bias_stride + place : nullptr,
           .window = has_bias && place == 0 ? layer.window : 0,  // the kernel counts queries from the first position
           .context = context + head * head_dim,
           .context_stride = row_stride(output.inner),
           .received = drops ? w_.received + static_cast<std::ptrdiff_t>(head) * most_tokens_ + starts_[row] : nullptr},
          scratch_.attention);
      if (head + 1 == layer.used_heads) {
        for (int i = 0; i < queries; ++i) {
          std::fill(context + i * row_stride(output.inner) + width, context + i * row_stride(output.inner) + padded(width),
                    0.0F);
        }
      }
    }
    team_.meet();
    const std::int32_t* kept = nullptr;
    if (drops) {
      drop_tokens(index, layer.used_heads);
      kept = w_.kept;
    } else if (pools) {
      keep_pooled_tokens();
    }
    const Tensor input = input_of(output, w_.context, kept != nullptr);
    if (input.values != w_.context) {
      const auto share = team_.share(tokens_);
      kernels_.quantise({w_.context, kept, width, share.first, share.end}, input);
      team_.meet();
    }
    finish(index, false, layer.end, input);
  }

  // Where query, key and value go: as fp32 where they turn afterwards.
  Tensor projected(const Matrix& matrix) const {
    const bool fp32 = matrix.precision == Precision::fp32 || config_.rotary();
    return {fp32 ? Precision::fp32 : kernels_.narrow_attention, w_.inner, matrix.outputs, nullptr, nullptr};
  }

  // Query, key and value of all tokens; where only one token of each sequence matters, its query alone.
  void project(const AttentionLayer& layer, bool pools, const Tensor& rows) {
    const Matrix& matrix = layer.query_key_value.matrix;
    const int strips = (layer.used_heads * config_.head_dim + matrix.strip - 1) / matrix.strip;
    Tensor all = input_of(matrix, read());
    Tensor query = all;
    if (pools) {
      find_pooled_tokens();
      query = {matrix.precision, w_.pooled.values, config_.hidden, w_.pooled.scale, w_.pooled.zero_point};
      const auto share = team_.share(rows_);
      kernels_.quantise({read(), scratch_.order, config_.hidden, share.first, share.end}, query);
      team_.meet();
    }
    for_parts(matrix, 3, strips, [&](int part, Team::Share of) {
      const bool is_query = part == 0;
      multiply(is_query ? query : all, is_query && pools ? rows_ : tokens_, matrix, Activation::identity, rows, of);
    });
    team_.meet();
  }

  // use(part, strips) for this worker's share of the first `strips` strips of each of the parts of a stacked matrix.
  template <class Use>
  void for_parts(const Matrix& matrix, int parts, int strips, const Use& use) {
    const int part_strips = matrix.strips() / parts;
    const auto [first, end] = team_.share(parts * strips);
    for (int part = 0; part < parts; ++part) {
      const int from = std::max(first - part * strips, 0);
      const int to = std::min(end - part * strips, strips);
      if (from < to) use(part, Team::Share{part * part_strips + from, part * part_strips + to});
    }
  }

  void feed_forward(int index, const FfnLayer& layer) {
    const Matrix& output = layer.end.output.matrix;
    const int strips = padded(layer.used_rows) / layer.input.matrix.strip;  // also what is read beyond the rows
    const Activation gelu = output.precision == Precision::fp32 ? Activation::gelu : Activation::rounded_gelu;
    finish(index, true, layer.end, config_.gated ? gated(layer, strips, gelu) : activated(layer, strips, gelu));
  }

  // The FFN rows as the output matrix reads them.
  Tensor activated(const FfnLayer& layer, int strips, Activation gelu) {
    const Matrix& output = layer.end.output.matrix;
    const Precision written = output.precision == Precision::bf16 ? Precision::bf16 : Precision::fp32;
    const Tensor inner{written, w_.inner, output.inner, nullptr, nullptr};
    multiply(input_of(layer.input.matrix, read()), tokens_, layer.input.matrix, gelu, inner, team_.share(strips));
    team_.meet();
    if (output.precision != Precision::int8) return inner;
    const Tensor input = input_of(output, w_.inner);
    const auto share = team_.share(tokens_);
    kernels_.quantise({w_.inner, nullptr, layer.used_rows, share.first, share.end}, input);
    team_.meet();
    return input;
  }

  // The same of a family in which each is multiplied by its gate.
  Tensor gated(const FfnLayer& layer, int strips, Activation gelu) {
    const Matrix& matrix = layer.input.matrix;
    const Matrix& output = layer.end.output.matrix;
    const Tensor both{Precision::fp32, w_.inner, matrix.outputs, nullptr, nullptr};
    for_parts(matrix, 2, strips, [&](int part, Team::Share of) {
      multiply(input_of(matrix, read()), tokens_, matrix, part == 0 ? gelu : Activation::identity, both, of);
    });
    team_.meet();
    const auto share = team_.share(tokens_);
    kernels_.gate({.rows = w_.inner,
                   .gates = w_.inner + matrix.outputs / 2,
                   .stride = row_stride(matrix.outputs),
                   .width = output.inner,
                   .output = w_.context,
                   .first = share.first,
                   .end = share.end});
    const Tensor input = input_of(output, w_.context);
    if (input.values != w_.context) {
      kernels_.quantise({w_.context, nullptr, layer.used_rows, share.first, share.end}, input);
    }
    team_.meet();
    return input;
  }

  void finish(int index, bool after_ffn, const SublayerEnd& end, const Tensor& input) {
    const Matrix& matrix = end.output.matrix;
    multiply(input, tokens_, matrix, Activation::identity, {Precision::fp32, w_.update, matrix.outputs, nullptr, nullptr},
             team_.share(matrix.strips()));
    team_.meet();
    const Team::Share share = team_.share(tokens_);
    const Model::Reader next = model_.reader_after(index, after_ffn);
    normed_apart_ = config_.pre_norm;
    kernels_.add_and_norm({.hidden = hidden_,
                           .normed = read(),
                           .update = w_.update,
                           .update_stride = row_stride(matrix.outputs),
                           .kept = end.kept,
                           .first_token = share.first,
                           .end_token = share.end},
                          config_.pre_norm ? *next.norm : end.norm);
    quantise_input(next.precision, share);
    team_.meet();
  }

  // Writes this worker's rows as the next matrix reads them.
  void quantise_input(Precision precision, Team::Share share) {
    if (precision == Precision::fp32) return;
    const Tensor to{precision, w_.input.values, config_.hidden, w_.input.scale, w_.input.zero_point};
    kernels_.quantise({read(), nullptr, config_.hidden, share.first, share.end}, to);
  }

  // The input of `matrix`, where it is or will be quantised; as fp32 it stays where it is, unless it has to `move`.
  Tensor input_of(const Matrix& matrix, float* fp32, bool move = false) const {
    const bool stays = matrix.precision == Precision::fp32 && !move;
    return {matrix.precision, stays ? reinterpret_cast<std::byte*>(fp32) : w_.input.values, matrix.inner, w_.input.scale,
            w_.input.zero_point};
  }

  // scratch_.order[row] = the token whose row the head reads: the last one, or the first that is not skipped, which is the
  // first of all where all are.
  void find_pooled_tokens() const {
    for (int row = 0; row < rows_; ++row) {
      const int first = starts_[row] + (skips_all(row) ? 0 : skipped(row));
      scratch_.order[row] = config_.rows == Rows::last ? starts_[row + 1] - 1 : first;
    }
  }

  // From here on every sequence is the token that find_pooled_tokens() has found.
  void keep_pooled_tokens() {
    for (int row = 0; row <= rows_; ++row) next_starts_[row] = row;
    take_rows(scratch_.order);
  }

  // Every sequence keeps its most attended tokens.
  void drop_tokens(int index, int heads) {
    next_starts_[0] = 0;
    for (int row = 0; row < rows_; ++row) {
      next_starts_[row + 1] = next_starts_[row] + model_.plan.tokens_kept(index, length(row));
    }
    const auto [first, end] = team_.share(rows_);
    for (int row = first; row < end; ++row) choose_tokens(row, heads);
    team_.meet();
    take_rows(w_.kept);
  }

  // kept[next_starts[row]...] = the most attended tokens of a sequence, in order (constraint-aware token pruning,
  // arXiv 2306.14393): the first token before separators before others, ties to the earlier one.
  void choose_tokens(int row, int heads) {
    float* score = w_.received + starts_[row];
    const int count = length(row);
    bool finite = true;
    for (int token = 0; token < count; ++token) {
      for (int head = 1; head < heads; ++head) {
        score[token] += score[static_cast<std::ptrdiff_t>(head) * most_tokens_ + token];
      }
      finite = finite && std::isfinite(score[token]);
    }
    if (!finite) {  // an overflow must not go by unseen: it shows in the logits
      std::fill_n(score, count, 0.0F);
      hidden_[starts_[row] * row_stride(config_.hidden)] = std::numeric_limits<float>::quiet_NaN();
    }
    std::int32_t* order = scratch_.order;
    std::iota(order, order + count, 0);
    const int kept = next_starts_[row + 1] - next_starts_[row];
    const auto rank = [&](int token) {
      return token == 0 ? 2 : batch_->ids[origin_[starts_[row] + token]] == config_.separator ? 1 : 0;
    };
    const auto before = [&](int a, int b) {
      if (rank(a) != rank(b)) return rank(a) > rank(b);
      return score[a] != score[b] ? score[a] > score[b] : a < b;
    };
    std::nth_element(order, order + kept - 1, order + count, before);
    std::sort(order, order + kept);
    for (int i = 0; i < kept; ++i) w_.kept[next_starts_[row] + i] = starts_[row] + order[i];
  }

  // The hidden rows become those at `from`, next_starts_ the starts of their sequences. The team has met before.
  void take_rows(const std::int32_t* from) {
    const int tokens = next_starts_[rows_];
    const std::ptrdiff_t stride = row_stride(config_.hidden);
    const auto [first, end] = team_.share(tokens);
    for (int i = first; i < end; ++i) {
      std::copy_n(hidden_ + from[i] * stride, stride, spare_ + i * stride);
      next_origin_[i] = origin_[from[i]];
    }
    team_.meet();
    std::swap(hidden_, spare_);
    std::swap(starts_, next_starts_);
    std::swap(origin_, next_origin_);
    tokens_ = tokens;
  }

  void note_kept(std::uint8_t* kept) const {
    const auto [first, end] = team_.share(tokens_);
    for (int i = first; i < end; ++i) kept[origin_[i]] = 1;
  }

  // From here on every sequence is one row, pooled from those of its tokens that are not skipped; zeros where all are.
  void pool() {
    const std::ptrdiff_t stride = row_stride(config_.hidden);
    const auto share = team_.share(rows_);
    for (int row = share.first; row < share.end; ++row) {
      float* pooled = spare_ + row * stride;
      std::fill_n(pooled, stride, 0.0F);
      if (skips_all(row)) continue;
      if (config_.rows == Rows::max) {
        take_largest(starts_[row] + skipped(row), starts_[row + 1], pooled);
      } else {
        take_mean(row, pooled);
      }
    }
    team_.meet();
    std::swap(hidden_, spare_);
    normed_apart_ = false;
    tokens_ = rows_;
  }

  void take_largest(int first, int end, float* pooled) const {
    const std::ptrdiff_t stride = row_stride(config_.hidden);
    std::copy_n(read() + first * stride, config_.hidden, pooled);
    for (int i = first + 1; i < end; ++i) {
      const float* token = read() + i * stride;
      for (int column = 0; column < config_.hidden; ++column) {
        if (token[column] > pooled[column] || std::isnan(token[column])) pooled[column] = token[column];
      }
    }
  }

  void take_mean(int row, float* pooled) const {
    const std::ptrdiff_t stride = row_stride(config_.hidden);
    float weights = 0.0F;
    for (int i = starts_[row] + skipped(row); i < starts_[row + 1]; ++i) {
      const float weight = config_.rows == Rows::weighted_mean ? static_cast<float>(i + 1 - starts_[row]) : 1.0F;
      const float* token = read() + i * stride;
      for (int column = 0; column < config_.hidden; ++column) pooled[column] += weight * token[column];
      weights += weight;
    }
    const float divisor = config_.rows == Rows::mean_sqrt_len ? std::sqrt(weights) : weights;
    for (int column = 0; column < config_.hidden; ++column) pooled[column] /= divisor;
  }

  // A last token that is skipped is zeros.
  void clear_skipped_rows() {
    const std::ptrdiff_t stride = row_stride(config_.hidden);
    const auto share = team_.share(rows_);
    for (int row = share.first; row < share.end; ++row) {
      if (skips_all(row)) std::fill_n(read() + row * stride, stride, 0.0F);
    }
    team_.meet();
  }

  void head(float* logits) {
    bool is_quantised = !config_.pools();  // by the last sub-layer
    if (config_.pools()) pool();
    if (config_.rows == Rows::last && batch_->skipped != nullptr) {
      clear_skipped_rows();
      is_quantised = false;
    }
    float* rows = read();
    for (const HeadLayer& layer : model_.head) {
      const auto share = team_.share(tokens_);
      if (layer.dense) {
        const Matrix& matrix = layer.dense->matrix;
        const Tensor input = input_of(matrix, rows);
        if (input.values != rows && !is_quantised) {
          kernels_.quantise({rows, nullptr, matrix.inner, share.first, share.end}, input);
          team_.meet();
        }
        rows = rows == w_.update ? w_.inner : w_.update;
        multiply(input, tokens_, matrix, layer.activation, {Precision::fp32, rows, matrix.outputs, nullptr, nullptr},
                 team_.share(matrix.strips()));
      } else {
        normalise(rows, rows, share, layer.norm);
      }
      is_quantised = false;
      team_.meet();
    }
    leave_rows(rows, config_.outputs, logits);
  }

  void leave_rows(const float* rows, int width, float* logits) const {
    const auto [first, end] = team_.share(tokens_);
    for (int i = first; i < end; ++i) {
      const float* row = rows + i * row_stride(width);
      float* to = logits + static_cast<std::ptrdiff_t>(i) * width;
      std::copy_n(row, width, to);
      if (config_.normalize) scale_to_length_1(to, width);
    }
  }

  static void scale_to_length_1(float* row, int width) {
    constexpr double kLeastLength = 1e-12;  // as in torch: nothing but zeros stays zeros
    const double squares = std::inner_product(row, row + width, row, 0.0, std::plus<>(), [](double a, double b) { return a * b; });
    const auto length = static_cast<float>(std::max(std::sqrt(squares), kLeastLength));
    for (int column = 0; column < width; ++column) row[column] /= length;
  }

  void multiply(const Tensor& input, int tokens, const Matrix& matrix, Activation activation, const Tensor& output,
                Team::Share strips) {
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

  const Model& model_;
  const EncoderConfig& config_;
  const Kernels& kernels_;
  const int most_tokens_;
  const int last_attention_;
  const Workspace& w_;
  const Scratch& scratch_;
  const Team team_;
  const Batch* batch_ = nullptr;
  int first_row_ = 0;
  int first_token_ = 0;
  int rows_ = 0;
  int tokens_ = 0;
  float* hidden_ = nullptr;
  float* spare_ = nullptr;
  bool normed_apart_ = false;  // the rows in w_.normed are read next
  std::int32_t* starts_ = nullptr;  // of the sequences' rows, [rows + 1]
  std::int32_t* next_starts_ = nullptr;
  std::int32_t* origin_ = nullptr;
  std::int32_t* next_origin_ = nullptr;
};

}  // namespace prunetime
