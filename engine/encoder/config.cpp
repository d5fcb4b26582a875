#include "encoder/config.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"

namespace prunetime {
namespace {

constexpr int kLargest = 1 << 20;  // keeps every product of two sizes inside 64 bits, and of one with 4 inside 32

void check_size(const char* name, int value, int least) {
  if (value < least || value > kLargest) {
    throw Error("config: " + std::string(name) + " is " + std::to_string(value) + "; it must be from " +
                std::to_string(least) + " to " + std::to_string(kLargest));
  }
}

// Above 0 as a float, which it is added to, and below 1.
bool is_eps(double eps) { return eps < 1.0 && static_cast<float>(eps) > 0.0F; }

// Throws Error where values[0..count) has one outside 0..limit - 1.
void check_indices(const char* name, const std::int32_t* values, int count, int limit) {
  for (int i = 0; i < count; ++i) {
    if (values[i] < 0 || values[i] >= limit) {
      throw Error(std::string(name) + "[" + std::to_string(i) + "] is " + std::to_string(values[i]) +
                  "; this encoder has 0 to " + std::to_string(limit - 1));
    }
  }
}

void check_head(const ForwardConfig& config) {
  int read = config.hidden;
  for (const HeadLayerConfig& layer : config.head) {
    check_size("width of a head layer", layer.width, 1);
    if (layer.is_norm() && layer.width != read) {
      throw Error("config: " + layer.name + " is a norm of " + std::to_string(layer.width) + " numbers; it reads " +
                  std::to_string(read));
    }
    if (layer.is_norm() && !is_eps(layer.eps)) {
      throw Error("config: eps of " + layer.name + " is " + std::to_string(layer.eps) +
                  "; it must be above 0 and below 1");
    }
    read = layer.width;
  }
  if (read != config.outputs) {
    throw Error("config: outputs is " + std::to_string(config.outputs) + "; the head ends with " + std::to_string(read));
  }
}

}  // namespace

void ForwardConfig::check() const {
  check_size("layers", layers, 1);
  check_size("embedding", embedding, 1);
  check_size("hidden", hidden, 1);
  check_size("heads", heads, 1);
  check_size("head_dim", head_dim, 1);
  check_size("ffn", ffn, 1);
  check_size("vocabulary", vocabulary, 1);
  check_size("positions", positions, 1);
  check_size("position_offset", position_offset, 0);
  check_size("token_types", token_types, 0);
  check_size("outputs", outputs, 1);
  if (separator < -1 || separator >= vocabulary) {
    throw Error("config: separator is " + std::to_string(separator) + "; it must be a token id below " +
                std::to_string(vocabulary) + ", or -1");
  }
  if (position_offset >= positions) {
    throw Error("config: position_offset " + std::to_string(position_offset) + " leaves none of " +
                std::to_string(positions) + " positions");
  }
  if (static_cast<std::int64_t>(heads) * head_dim > kLargest) {
    throw Error("config: " + std::to_string(heads) + " heads of " + std::to_string(head_dim) + " are more than " +
                std::to_string(kLargest));
  }
  for (const std::size_t given : {rotary_theta.size(), rotary_window.size()}) {
    if (given != 0 && given != static_cast<std::size_t>(layers)) {
      throw Error("config: rotary positions of " + std::to_string(given) + " layers; the encoder has " +
                  std::to_string(layers));
    }
  }
  if (rotary_theta.size() != rotary_window.size()) throw Error("config: rotary_theta and rotary_window differ in length");
  if (head.empty() && outputs != hidden) {
    throw Error("config: without a head, rows of " + std::to_string(hidden) + " outputs come out");
  }
  if (normalize && rows == Rows::all) throw Error("config: normalize scales one row of a sequence, but rows is all");
  check_head(*this);
  if (rotary() && head_dim % 2 != 0) {
    throw Error("config: head_dim is " + std::to_string(head_dim) + "; rotary positions turn pairs of numbers");
  }
  for (const double theta : rotary_theta) {
    if (!(theta > 1.0 && std::isfinite(theta))) {
      throw Error("config: rotary_theta has " + std::to_string(theta) + "; it must be above 1");
    }
  }
  for (const int window : rotary_window) check_size("rotary_window", window, 0);
  if (!is_eps(layer_norm_eps)) {
    throw Error("config: layer_norm_eps is " + std::to_string(layer_norm_eps) + "; it must be above 0 and below 1");
  }
}

void ForwardPlan::check(const ForwardConfig& config) const {
  if (tokens.size() != static_cast<std::size_t>(config.layers)) {
    throw Error("plan: tokens has " + std::to_string(tokens.size()) + " layers, the encoder " +
                std::to_string(config.layers));
  }
  for (std::size_t layer = 0; layer < tokens.size(); ++layer) {
    if (!(tokens[layer] > 0.0 && tokens[layer] <= 1.0)) {
      throw Error("plan: tokens of layer " + std::to_string(layer) + " is " + std::to_string(tokens[layer]) +
                  "; it must be above 0 and at most 1");
    }
  }
  if (drops() && config.rows != Rows::first) {
    throw Error("plan: the head reads other tokens than the first, and none can be dropped");
  }
  if (drops() && !config.drops_tokens()) throw Error("plan: distances between tokens are learned, and none can be dropped");
}

Precision ForwardPlan::of(const std::string& matrix) const {
  const auto found = precision.find(matrix);
  return found == precision.end() ? Precision::fp32 : found->second;
}

bool ForwardPlan::is_dense(const std::string& matrix) const {
  return std::find(dense.begin(), dense.end(), matrix) != dense.end();
}

bool ForwardPlan::drops() const {
  return std::any_of(tokens.begin(), tokens.end(), [](double fraction) { return fraction < 1.0; });
}

int ForwardPlan::tokens_kept(int layer, int length) const {
  return std::max(1, static_cast<int>(std::ceil(tokens[static_cast<std::size_t>(layer)] * length)));
}

int Batch::end_of_chunk(int first, int tokens) const {
  int end = first + 1;
  while (end < sequences && offsets[end + 1] - offsets[first] <= tokens) ++end;
  return end;
}

void Batch::check(const ForwardConfig& config, std::int64_t tokens_given) const {
  if (offsets[0] != 0) throw Error("offsets start at " + std::to_string(offsets[0]) + "; they must start at 0");
  for (int i = 0; i < sequences; ++i) {
    const std::int64_t count = static_cast<std::int64_t>(offsets[i + 1]) - offsets[i];
    if (count < 1) {
      throw Error("sequence " + std::to_string(i) + " has " + std::to_string(count) +
                  " tokens; every sequence needs at least 1 (offsets must rise)");
    }
    if (count > config.longest()) {
      throw Error("sequence " + std::to_string(i) + " has " + std::to_string(count) +
                  " tokens; this encoder takes at most " + std::to_string(config.longest()));
    }
  }
  if (offsets[sequences] != tokens_given) {
    throw Error("offsets end at " + std::to_string(offsets[sequences]) + ", but there are " +
                std::to_string(tokens_given) + " ids");
  }
  check_indices("ids", ids, tokens(), config.vocabulary);
  if (config.token_types > 0) check_indices("types", types, tokens(), config.token_types);
  for (int i = 0; skipped != nullptr && i < sequences; ++i) {
    if (skipped[i] < 0) {
      throw Error("skipped[" + std::to_string(i) + "] is " + std::to_string(skipped[i]) + "; it must be at least 0");
    }
  }
}

}  // namespace prunetime
