#include "encoder/model.h"

#include <algorithm>
#include <initializer_list>

namespace prunetime {
namespace {

// Places the arrays in the arena. It runs twice: while the arena counts sizes, and again to copy.
class Placer {
 public:
  Placer(Model& model, WeightReader& reader, const Kernels& kernels)
      : model_(model), reader_(reader), kernels_(kernels), hidden_(model.config.hidden) {}

  void place() {
    const EncoderConfig& config = model_.config;
    model_.word = table("embeddings.word.weight", config.vocabulary);
    model_.position = table("embeddings.position.weight", config.positions);
    if (config.token_types > 0) model_.token_type = table("embeddings.token_type.weight", config.token_types);
    model_.embedding_norm = norm("embeddings.norm");
    model_.layers.assign(static_cast<std::size_t>(config.layers), {});
    for (int i = 0; i < config.layers; ++i) {
      const std::string name = "layers." + std::to_string(i) + ".";
      Layer& layer = model_.layers[static_cast<std::size_t>(i)];
      if (reader_.has(name + "query.weight")) layer.attention = attention(name);
      if (reader_.has(name + "ffn_input.weight")) layer.ffn = ffn(name);
    }
    model_.head_dense = linear({"head.dense"}, hidden_, hidden_);
    model_.head_output = linear({"head.output"}, config.outputs, hidden_);
    reader_.finish();
  }

 private:
  AttentionLayer attention(const std::string& name) {
    const int head_dim = model_.config.head_dim;
    const int inner = reader_.outputs(name + "query.weight", model_.config.heads * head_dim);
    const int heads = std::max(1, inner / head_dim);  // whole heads: any other number of rows is refused just below
    return {.heads = heads,
            .query_key_value = linear({name + "query", name + "key", name + "value"}, heads * head_dim, hidden_),
            .end = end(name + "attention", heads * head_dim)};
  }

  FfnLayer ffn(const std::string& name) {
    const int inner = reader_.outputs(name + "ffn_input.weight", model_.config.ffn);
    return {.input = linear({name + "ffn_input"}, inner, hidden_), .end = end(name + "ffn", inner)};
  }

  SublayerEnd end(const std::string& name, int inner) {
    const int rows = reader_.outputs(name + "_output.weight", hidden_);
    SublayerEnd result{.output = linear({name + "_output"}, rows, inner), .norm = norm(name + "_norm")};
    if (rows < hidden_ || reader_.has(name + "_rows")) {
      const std::int32_t* indices = reader_.indices(name + "_rows", rows, hidden_);
      auto* kept = model_.arena.take<std::uint32_t>(static_cast<std::size_t>(padded(hidden_) / kPad));
      for (int i = 0; i < rows && !model_.arena.counting(); ++i) kept[indices[i] / kPad] |= 1U << (indices[i] % kPad);
      result.kept = kept;
    }
    return result;
  }

  // One matrix of the matrices `names` [outputs, inner] below one another.
  Linear linear(const std::vector<std::string>& names, int outputs, int inner) {
    const int total = outputs * static_cast<int>(names.size());
    float* packed = model_.arena.take<float>(kernels_.packed_floats(total, inner));
    float* bias = model_.arena.take<float>(static_cast<std::size_t>(padded(total)));
    std::vector<float> stacked;
    for (const std::string& name : names) {
      const float* weight = reader_.matrix(name + ".weight", outputs, inner);
      const float* values = reader_.vector(name + ".bias", outputs);
      if (model_.arena.counting()) continue;
      stacked.insert(stacked.end(), weight, weight + static_cast<std::ptrdiff_t>(outputs) * inner);
      bias = std::copy_n(values, outputs, bias);
    }
    if (model_.arena.counting()) return {total, inner, nullptr, nullptr};
    kernels_.pack(stacked.data(), total, inner, packed);
    return {total, inner, packed, bias - total};
  }

  LayerNorm norm(const std::string& name) {
    const float* weight = padded_vector(name + ".weight");
    const float* bias = padded_vector(name + ".bias");
    return {weight, bias, hidden_, model_.config.layer_norm_eps};
  }

  const float* padded_vector(const std::string& name) {
    const float* values = reader_.vector(name, hidden_);
    auto* copy = model_.arena.take<float>(static_cast<std::size_t>(padded(hidden_)));
    if (copy != nullptr) std::copy_n(values, hidden_, copy);
    return copy;
  }

  const float* table(const std::string& name, int rows) {
    const float* values = reader_.matrix(name, rows, hidden_);
    const std::ptrdiff_t stride = row_stride(hidden_);
    auto* copy = model_.arena.take<float>(static_cast<std::size_t>(rows * stride));
    for (int row = 0; row < rows && copy != nullptr; ++row) {
      std::copy_n(values + static_cast<std::ptrdiff_t>(row) * hidden_, hidden_, copy + row * stride);
    }
    return copy;
  }

  Model& model_;
  WeightReader& reader_;
  const Kernels& kernels_;
  const int hidden_;
};

}  // namespace

Model::Model(const EncoderConfig& encoder_config, const Arrays& arrays, const Kernels& kernels)
    : config(encoder_config) {
  config.check();
  WeightReader reader(arrays);
  Placer placer(*this, reader, kernels);
  placer.place();
  arena.commit();
  placer.place();
}

int Model::widest_inner() const {
  int widest = std::max(config.hidden, config.outputs);
  for (const Layer& layer : layers) {
    if (layer.attention) widest = std::max(widest, layer.attention->query_key_value.outputs);
    if (layer.ffn) widest = std::max(widest, layer.ffn->input.outputs);
  }
  return widest;
}

int Model::widest_context() const {
  int widest = config.hidden;
  for (const Layer& layer : layers) {
    if (layer.attention) widest = std::max(widest, layer.attention->end.output.inner);
  }
  return widest;
}

}  // namespace prunetime
