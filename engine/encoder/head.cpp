// What follows the layers: pooling, the layers of the head, and the logits.
#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <utility>

#include "encoder/forward.h"

namespace prunetime {
namespace {

void scale_to_length_1(float* row, int width) {
  constexpr double kLeastLength = 1e-12;  // as in torch: nothing but zeros stays zeros
  const double squares = std::inner_product(row, row + width, row, 0.0, std::plus<>(), [](double a, double b) { return a * b; });
  const auto length = static_cast<float>(std::max(std::sqrt(squares), kLeastLength));
  for (int column = 0; column < width; ++column) row[column] /= length;
}

}  // namespace

// From here on every sequence is one row, pooled from those of its tokens that are not skipped; zeros where all are.
void ForwardPass::pool() {
  const std::ptrdiff_t stride = row_stride(config_.hidden);
  const auto share = team_.share(sequences_);
  for (int sequence = share.first; sequence < share.end; ++sequence) {
    float* pooled = spare_ + sequence * stride;
    std::fill_n(pooled, stride, 0.0F);
    if (skips_all(sequence)) continue;
    if (config_.rows == Rows::max) {
      max_pool(starts_[sequence] + skipped(sequence), starts_[sequence + 1], pooled);
    } else {
      mean_pool(sequence, pooled);
    }
  }
  team_.sync();
  std::swap(hidden_, spare_);
  normed_apart_ = false;
  tokens_ = sequences_;
}

void ForwardPass::max_pool(int first, int end, float* pooled) const {
  const std::ptrdiff_t stride = row_stride(config_.hidden);
  std::copy_n(input_rows() + first * stride, config_.hidden, pooled);
  for (int i = first + 1; i < end; ++i) {
    const float* token = input_rows() + i * stride;
    for (int column = 0; column < config_.hidden; ++column) {
      if (token[column] > pooled[column] || std::isnan(token[column])) pooled[column] = token[column];
    }
  }
}

void ForwardPass::mean_pool(int sequence, float* pooled) const {
  const std::ptrdiff_t stride = row_stride(config_.hidden);
  float weights = 0.0F;
  for (int i = starts_[sequence] + skipped(sequence); i < starts_[sequence + 1]; ++i) {
    const float weight = config_.rows == Rows::weighted_mean ? static_cast<float>(i + 1 - starts_[sequence]) : 1.0F;
    const float* token = input_rows() + i * stride;
    for (int column = 0; column < config_.hidden; ++column) pooled[column] += weight * token[column];
    weights += weight;
  }
  const float divisor = config_.rows == Rows::mean_sqrt_len ? std::sqrt(weights) : weights;
  for (int column = 0; column < config_.hidden; ++column) pooled[column] /= divisor;
}

// A last token that is skipped is zeros.
void ForwardPass::clear_skipped_rows() {
  const std::ptrdiff_t stride = row_stride(config_.hidden);
  const auto share = team_.share(sequences_);
  for (int sequence = share.first; sequence < share.end; ++sequence) {
    if (skips_all(sequence)) std::fill_n(input_rows() + sequence * stride, stride, 0.0F);
  }
  team_.sync();
}

void ForwardPass::head(float* logits) {
  bool is_quantised = !config_.pools();  // by the last sub-layer
  if (config_.pools()) pool();
  if (config_.rows == Rows::last && batch_->skipped != nullptr) {
    clear_skipped_rows();
    is_quantised = false;
  }
  float* rows = input_rows();
  for (const HeadLayer& layer : model_.head) {
    const auto share = team_.share(tokens_);
    if (layer.dense) {
      const Matrix& matrix = layer.dense->matrix;
      const Tensor input = input_of(matrix, rows);
      if (input.values != rows && !is_quantised) {
        kernels_.quantise({rows, nullptr, matrix.inner, share.first, share.end}, input);
        team_.sync();
      }
      rows = rows == w_.update ? w_.inner : w_.update;
      multiply(input, tokens_, matrix, layer.activation, {Precision::fp32, rows, matrix.outputs, nullptr, nullptr},
               team_.share(matrix.strips()));
    } else {
      layer_norm(rows, rows, share, layer.norm);
    }
    is_quantised = false;
    team_.sync();
  }
  write_logits(rows, config_.outputs, logits);
}

void ForwardPass::write_logits(const float* rows, int width, float* logits) const {
  const auto [first, end] = team_.share(tokens_);
  for (int i = first; i < end; ++i) {
    const float* row = rows + i * row_stride(width);
    float* to = logits + static_cast<std::ptrdiff_t>(i) * width;
    std::copy_n(row, width, to);
    if (config_.normalize) scale_to_length_1(to, width);
  }
}

}  // namespace prunetime
