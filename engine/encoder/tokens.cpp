// Which tokens go on: the most attended ones of a layer that drops some, and the one whose sequence the head reads.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "encoder/forward.h"

namespace prunetime {

// scratch_.order[sequence] = the token whose sequence the head reads: the last one, or the first that is not skipped, which is the
// first of all where all are.
void ForwardPass::find_pooled_tokens() const {
  for (int sequence = 0; sequence < sequences_; ++sequence) {
    const int first = starts_[sequence] + (skips_all(sequence) ? 0 : skipped(sequence));
    scratch_.order[sequence] = config_.rows == Rows::last ? starts_[sequence + 1] - 1 : first;
  }
}

// From here on every sequence is the token that find_pooled_tokens() has found.
void ForwardPass::keep_pooled_tokens() {
  for (int sequence = 0; sequence <= sequences_; ++sequence) next_starts_[sequence] = sequence;
  gather_rows(scratch_.order);
}

// Every sequence keeps its most attended tokens.
void ForwardPass::drop_tokens(int index, int heads) {
  next_starts_[0] = 0;
  for (int sequence = 0; sequence < sequences_; ++sequence) {
    next_starts_[sequence + 1] = next_starts_[sequence] + model_.plan.tokens_kept(index, length(sequence));
  }
  const auto [first, end] = team_.share(sequences_);
  for (int sequence = first; sequence < end; ++sequence) choose_tokens(sequence, heads);
  team_.sync();
  gather_rows(w_.kept);
}

// kept[next_starts[sequence]...] = the most attended tokens of a sequence, in order (constraint-aware token pruning,
// arXiv 2306.14393): the first token before separators before others, ties to the earlier one.
void ForwardPass::choose_tokens(int sequence, int heads) {
  float* score = w_.received + starts_[sequence];
  const int count = length(sequence);
  bool finite = true;
  for (int token = 0; token < count; ++token) {
    for (int head = 1; head < heads; ++head) {
      score[token] += score[static_cast<std::ptrdiff_t>(head) * most_tokens_ + token];
    }
    finite = finite && std::isfinite(score[token]);
  }
  if (!finite) {  // an overflow must not go by unseen: it shows in the logits
    std::fill_n(score, count, 0.0F);
    hidden_[starts_[sequence] * row_stride(config_.hidden)] = std::numeric_limits<float>::quiet_NaN();
  }
  std::int32_t* order = scratch_.order;
  std::iota(order, order + count, 0);
  const int kept = next_starts_[sequence + 1] - next_starts_[sequence];
  const auto rank = [&](int token) {
    return token == 0 ? 2 : batch_->ids[origin_[starts_[sequence] + token]] == config_.separator ? 1 : 0;
  };
  const auto before = [&](int a, int b) {
    if (rank(a) != rank(b)) return rank(a) > rank(b);
    return score[a] != score[b] ? score[a] > score[b] : a < b;
  };
  std::nth_element(order, order + kept - 1, order + count, before);
  std::sort(order, order + kept);
  for (int i = 0; i < kept; ++i) w_.kept[next_starts_[sequence] + i] = starts_[sequence] + order[i];
}

// The hidden rows become those at `from`, next_starts_ the starts of their sequences. The team has met before.
void ForwardPass::gather_rows(const std::int32_t* from) {
  const int tokens = next_starts_[sequences_];
  const std::ptrdiff_t stride = row_stride(config_.hidden);
  const auto [first, end] = team_.share(tokens);
  for (int i = first; i < end; ++i) {
    std::copy_n(hidden_ + from[i] * stride, stride, spare_ + i * stride);
    next_origin_[i] = origin_[from[i]];
  }
  team_.sync();
  std::swap(hidden_, spare_);
  std::swap(starts_, next_starts_);
  std::swap(origin_, next_origin_);
  tokens_ = tokens;
}

void ForwardPass::record_kept(std::uint8_t* kept) const {
  const auto [first, end] = team_.share(tokens_);
  for (int i = first; i < end; ++i) kept[origin_[i]] = 1;
}

}  // namespace prunetime
