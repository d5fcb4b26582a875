#include "encoder/model.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"

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
    model_.embedding_norm = norm("embeddings.norm", config.embedding);
    if (config.projects()) model_.projection = linear({"embeddings.project"}, hidden_, config.embedding);
    model_.layers.assign(static_cast<std::size_t>(config.layers), {});
    for (int i = 0; i < config.layers; ++i) {
      const std::string name = "layers." + std::to_string(i) + ".";
      Layer& layer = model_.layers[static_cast<std::size_t>(i)];
      if (reader_.has(name + "query.bias")) layer.attention = attention(name);
      if (reader_.has(name + "ffn_input.bias")) layer.ffn = ffn(name);
    }
    if (!config.token_rows) model_.head_dense = linear({"head.dense"}, hidden_, hidden_);
    model_.head_output = linear({"head.output"}, config.outputs, hidden_);
    reader_.finish();
  }

 private:
  AttentionLayer attention(const std::string& name) {
    const int head_dim = model_.config.head_dim;
    const int inner = reader_.size(name + "query.bias", model_.config.heads * head_dim);
    const int heads = std::max(1, inner / head_dim);  // whole heads: any other number of rows is refused just below
    return {.heads = heads,
            .used_heads = heads,
            .query_key_value = linear({name + "query", name + "key", name + "value"}, heads * head_dim, hidden_),
            .position_bias = model_.config.relative_positions ? position_bias(name + "position_bias", heads) : nullptr,
            .end = end(name + "attention", heads * head_dim)};
  }

  // From the numbers for key - query to those for query - key, as they are added to scores that are yet to be scaled.
  const float* position_bias(const std::string& name, int heads) {
    const int distances = 2 * model_.config.longest() - 1;
    const float* values = reader_.matrix(name, heads, distances);
    const std::ptrdiff_t stride = model_.position_bias_stride();
    const float unscaled = std::sqrt(static_cast<float>(model_.config.head_dim));
    auto* table = model_.arena.take<float>(static_cast<std::size_t>(heads * stride));
    for (int head = 0; head < heads && table != nullptr; ++head) {
      const float* end = values + static_cast<std::ptrdiff_t>(head + 1) * distances;
      for (int i = 0; i < distances; ++i) table[head * stride + i] = unscaled * end[-1 - i];
    }
    return table;
  }

  FfnLayer ffn(const std::string& name) {
    const int inner = reader_.size(name + "ffn_input.bias", model_.config.ffn);
    return {.rows = inner, .used_rows = inner, .input = linear({name + "ffn_input"}, inner, hidden_), .end = end(name + "ffn", inner)};
  }

  SublayerEnd end(const std::string& name, int inner) {
    const int rows = reader_.size(name + "_output.bias", hidden_);
    SublayerEnd result{.output = linear({name + "_output"}, rows, inner), .norm = norm(name + "_norm", hidden_)};
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
    std::vector<Source> sources;
    for (const std::string& name : names) {
      sources.push_back(reader_.source(name, outputs, inner));
      if (model_.plan.of(name) != model_.plan.of(names[0])) {
        throw Error("plan: " + name + " and " + names[0] + " are multiplied together and need one precision");
      }
    }
    return pack(model_.arena, sources, model_.plan.of(names[0]), kernels_);
  }

  LayerNorm norm(const std::string& name, int width) {
    const float* weight = padded_vector(name + ".weight", width);
    const float* bias = padded_vector(name + ".bias", width);
    return {weight, bias, width, model_.config.layer_norm_eps};
  }

  const float* padded_vector(const std::string& name, int width) {
    const float* values = reader_.vector(name, width);
    auto* copy = model_.arena.take<float>(static_cast<std::size_t>(padded(width)));
    if (copy != nullptr) std::copy_n(values, width, copy);
    return copy;
  }

  // Of embeddings.
  const float* table(const std::string& name, int rows) {
    const int width = model_.config.embedding;
    const float* values = reader_.matrix(name, rows, width);
    const std::ptrdiff_t stride = row_stride(width);
    auto* copy = model_.arena.take<float>(static_cast<std::size_t>(rows * stride));
    for (int row = 0; row < rows && copy != nullptr; ++row) {
      std::copy_n(values + static_cast<std::ptrdiff_t>(row) * width, width, copy + row * stride);
    }
    return copy;
  }

  Model& model_;
  WeightReader& reader_;
  const Kernels& kernels_;
  const int hidden_;
};

}  // namespace

Model::Model(const EncoderConfig& encoder_config, const Plan& run_plan, const Arrays& arrays, const Kernels& kernels)
    : config(encoder_config), plan(run_plan) {
  config.check();
  plan.check(config);
  WeightReader reader(arrays);
  Placer placer(*this, reader, kernels);
  placer.place();
  arena.commit();
  placer.place();
  for (int layer = 0; layer < config.layers; ++layer) {
    if (plan.drops(layer) && !layers[static_cast<std::size_t>(layer)].attention) {
      throw Error("plan: layer " + std::to_string(layer) + " drops tokens, but has no attention to choose them by");
    }
  }
}

void Model::use(const std::vector<int>& heads, const std::vector<int>& ffn, const std::vector<double>& tokens) {
  if (heads.size() != layers.size() || ffn.size() != layers.size()) {
    throw Error("select: " + std::to_string(heads.size()) + " layers, the encoder has " + std::to_string(layers.size()));
  }
  const auto check = [](const char* what, std::size_t layer, int wanted, int stored) {
    if (wanted < 0 || wanted > stored) {
      throw Error("select: " + std::to_string(wanted) + " " + what + " of layer " + std::to_string(layer) +
                  ", which has " + std::to_string(stored));
    }
  };
  Plan wanted{.precision = plan.precision, .tokens = tokens};
  wanted.check(config);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    check("heads", i, heads[i], layers[i].attention ? layers[i].attention->heads : 0);
    check("FFN rows", i, ffn[i], layers[i].ffn ? layers[i].ffn->rows : 0);
    if (layers[i].attention) layers[i].attention->end.output.check_inner(heads[i] * config.head_dim);
    if (layers[i].ffn) layers[i].ffn->end.output.check_inner(ffn[i]);
    if (wanted.drops(static_cast<int>(i)) && heads[i] == 0) {
      throw Error("select: layer " + std::to_string(i) + " drops tokens and needs a head to choose them by");
    }
  }
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].attention) {
      AttentionLayer& layer = *layers[i].attention;
      layer.end.output.use_inner(heads[i] * config.head_dim);
      layer.used_heads = heads[i];
    }
    if (layers[i].ffn) {
      FfnLayer& layer = *layers[i].ffn;
      layer.end.output.use_inner(ffn[i]);
      layer.used_rows = ffn[i];
    }
  }
  plan = std::move(wanted);
}

Precision Model::next_precision(int layer, bool after_ffn) const {
  if (!after_ffn && layers[static_cast<std::size_t>(layer)].has_ffn()) {
    return layers[static_cast<std::size_t>(layer)].ffn->input.matrix.precision;
  }
  for (auto i = static_cast<std::size_t>(layer + 1); i < layers.size(); ++i) {
    if (layers[i].has_attention()) return layers[i].attention->query_key_value.matrix.precision;
    if (layers[i].has_ffn()) return layers[i].ffn->input.matrix.precision;
  }
  return head_dense ? head_dense->matrix.precision : head_output.matrix.precision;
}

int Model::last_attention() const {
  for (int i = config.layers - 1; i >= 0; --i) {
    if (layers[static_cast<std::size_t>(i)].has_attention()) return i;
  }
  return -1;
}

int Model::widest_inner() const {
  int widest = std::max(config.hidden, config.outputs);
  for (const Layer& layer : layers) {
    if (layer.attention) widest = std::max(widest, layer.attention->query_key_value.matrix.outputs);
    if (layer.ffn) widest = std::max(widest, layer.ffn->rows);
  }
  return widest;
}

int Model::widest_input() const {
  int widest = std::max(config.hidden, config.embedding);
  for (const Layer& layer : layers) {
    if (layer.attention) widest = std::max(widest, layer.attention->end.output.matrix.inner);
    if (layer.ffn) widest = std::max(widest, layer.ffn->rows);
  }
  return widest;
}

}  // namespace prunetime
