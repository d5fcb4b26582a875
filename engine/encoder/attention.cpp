#include <algorithm>
#include <cmath>

#include "encoder/forward.h"

namespace prunetime {

// Attention of all heads, softmax(query key^T / sqrt(head_dim)) value (arXiv 1706.03762), and what follows it.
void ForwardPass::attend(int index, const AttentionLayer& layer) {
  attend_heads(index, layer, project_query_key_value(index, layer));
  project_context(index, layer);
}

// Query, key and value of all tokens, in w_.inner; where only one token of each sequence matters, its query alone.
Tensor ForwardPass::project_query_key_value(int index, const AttentionLayer& layer) {
  const Matrix& matrix = layer.query_key_value.matrix;
  const bool fp32 = matrix.precision == Precision::fp32 || config_.rotary();  // rotary positions turn floats
  const Tensor projected{fp32 ? Precision::fp32 : kernels_.narrow_attention, w_.inner, matrix.outputs, nullptr, nullptr};
  const Tensor all = input_of(matrix, input_rows());
  Tensor queries = all;
  if (pools_in(index)) {
    find_pooled_tokens();
    queries = {matrix.precision, w_.pooled.values, config_.hidden, w_.pooled.scale, w_.pooled.zero_point};
    const auto share = team_.share(sequences_);
    kernels_.quantise({input_rows(), scratch_.order, config_.hidden, share.first, share.end}, queries);
    team_.sync();
  }
  const int strips = (layer.used_heads * config_.head_dim + matrix.strip - 1) / matrix.strip;
  for (int part = 0; part < 3; ++part) {
    const bool only_pooled = part == 0 && pools_in(index);
    multiply(only_pooled ? queries : all, only_pooled ? sequences_ : tokens_, matrix, Activation::identity, projected,
             share_of_part(matrix, 3, strips, part));
  }
  team_.sync();
  return projected;
}

// w_.context = the attention of all heads, one head of one sequence after the other.
void ForwardPass::attend_heads(int index, const AttentionLayer& layer, const Tensor& query_key_value) {
  const std::ptrdiff_t stride = row_stride(layer.output.projection.matrix.inner);
  const int width = layer.used_heads * config_.head_dim;
  const auto [first, end] = team_.share(sequences_ * layer.used_heads);
  for (int item = first; item < end; ++item) {
    const int sequence = item / layer.used_heads, head = item % layer.used_heads;
    attend_head(index, layer, query_key_value, sequence, head);
    if (head + 1 < layer.used_heads) continue;
    const int first_query = pools_in(index) ? sequence : starts_[sequence];
    for (int i = 0; i < (pools_in(index) ? 1 : length(sequence)); ++i) {
      float* context = w_.context + (first_query + i) * stride;
      std::fill(context + width, context + padded(width), 0.0F);
    }
  }
  team_.sync();
}

void ForwardPass::attend_head(int index, const AttentionLayer& layer, const Tensor& query_key_value, int sequence,
                              int head) {
  const bool pools = pools_in(index);
  const int head_dim = config_.head_dim;
  const std::ptrdiff_t number = kernels_.bytes(query_key_value.precision);
  const std::ptrdiff_t stride = kernels_.row_bytes(query_key_value.width, query_key_value.precision) / number;
  const std::ptrdiff_t part = query_key_value.width / 3;  // from a query to its key, and from there to its value
  const int first_query = pools ? sequence : starts_[sequence];
  const int queries = pools ? 1 : length(sequence);
  const int position = pools ? scratch_.order[sequence] - starts_[sequence] : 0;  // of the first query
  auto* first_number = static_cast<std::byte*>(query_key_value.values) + head * head_dim * number;
  std::byte* query = first_number + first_query * stride * number;
  std::byte* key = first_number + (starts_[sequence] * stride + part) * number;
  if (layer.rotation != nullptr) {  // a worker turns what no other one reads
    const float* of_query = layer.rotation + static_cast<std::ptrdiff_t>(position) * head_dim;
    kernels_.rotate({reinterpret_cast<float*>(query), stride, queries, head_dim, of_query});
    kernels_.rotate({reinterpret_cast<float*>(key), stride, length(sequence), head_dim, layer.rotation});
  }
  const bool has_bias = layer.position_bias != nullptr && length(sequence) > layer.window + 1;
  const bool drops = model_.plan.drops(index) && !pools;
  const std::ptrdiff_t context_stride = row_stride(layer.output.projection.matrix.inner);
  kernels_.attention(
      {.precision = query_key_value.precision,
       .query = query,
       .key = key,
       .value = key + part * number,
       .stride = stride,
       .queries = queries,
       .length = length(sequence),
       .head_dim = head_dim,
       .scale = 1.0F / std::sqrt(static_cast<float>(head_dim)),
       .bias = has_bias ? layer.position_bias + head * layer.position_bias_stride + position : nullptr,
       .window = has_bias && position == 0 ? layer.window : 0,  // the kernel counts queries from the first position
       .context = w_.context + first_query * context_stride + head * head_dim,
       .context_stride = context_stride,
       .received = drops ? w_.received + static_cast<std::ptrdiff_t>(head) * most_tokens_ + starts_[sequence] : nullptr},
      scratch_.attention);
}

// The output of the context of the tokens that go on, added to their hidden states.
void ForwardPass::project_context(int index, const AttentionLayer& layer) {
  const std::int32_t* kept = nullptr;
  if (pools_in(index)) {
    keep_pooled_tokens();
  } else if (model_.plan.drops(index)) {
    drop_tokens(index, layer.used_heads);
    kept = w_.kept;
  }
  const Tensor input = input_of(layer.output.projection.matrix, w_.context, kept != nullptr);
  if (input.values != w_.context) {
    const auto share = team_.share(tokens_);
    kernels_.quantise({w_.context, kept, layer.used_heads * config_.head_dim, share.first, share.end}, input);
    team_.sync();
  }
  add_and_norm(index, false, layer.output, input);
}

}  // namespace prunetime
