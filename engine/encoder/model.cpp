#include "encoder/model.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
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
    const ForwardConfig& config = model_.config;
    model_.word = table("embeddings.word.weight", config.vocabulary);
    if (!config.rotary()) model_.position = table("embeddings.position.weight", config.positions);
    if (config.token_types > 0) model_.token_type = table("embeddings.token_type.weight", config.token_types);
    model_.embedding_norm = norm("embeddings.norm", config.embedding);
    if (config.projects()) model_.projection = linear({"embeddings.project"}, hidden_, config.embedding);
    model_.layers.assign(static_cast<std::size_t>(config.layers), {});
    rotations_.clear();
    for (int i = 0; i < config.layers; ++i) {
      const std::string name = "layers." + std::to_string(i) + ".";
      Layer& layer = model_.layers[static_cast<std::size_t>(i)];
      if (reader_.has(name + "query.bias")) layer.attention = attention(i, name);
      if (reader_.has(name + "ffn_input.bias")) layer.ffn = ffn(name);
    }
    if (config.pre_norm) model_.final_norm = norm("final_norm", hidden_);
    place_head();
    reader_.check_all_read();
  }

 private:
  void place_head() {
    int read = hidden_;
    model_.head.clear();
    for (const HeadLayerConfig& layer : model_.config.head) {
      HeadLayer& placed = model_.head.emplace_back();
      if (layer.is_norm()) {
        placed.norm = norm(layer.name, layer.width, layer.eps);
      } else {
        placed.dense = linear({layer.name}, layer.width, read);
        placed.activation = layer.activation;
      }
      read = layer.width;
    }
  }

  AttentionLayer attention(int index, const std::string& name) {
    const ForwardConfig& config = model_.config;
    const int inner = reader_.size(name + "query.bias", config.heads * config.head_dim);
    const int heads = std::max(1, inner / config.head_dim);  // whole heads: any other number of rows is refused just below
    AttentionLayer layer{
        .heads = heads,
        .used_heads = heads,
        .query_key_value = linear({name + "query", name + "key", name + "value"}, heads * config.head_dim, hidden_),
        .output = output(name + "attention", heads * config.head_dim, !config.pre_norm || index > 0)};
    const std::ptrdiff_t distances = 2 * config.longest() + kMostQueries;  // some are read and not used
    if (config.relative_positions) {
      layer.position_bias = position_bias(name + "position_bias", heads, distances);
      layer.position_bias_stride = distances;
    }
    if (config.rotary()) {
      layer.rotation = rotation(config.rotary_theta[static_cast<std::size_t>(index)]);
      layer.window = config.rotary_window[static_cast<std::size_t>(index)];
      if (layer.window > 0) layer.position_bias = window_bias(layer.window, distances);
    }
    return layer;
  }

  // From the numbers for key - query to those for query - key, as they are added to scores that are yet to be scaled.
  const float* position_bias(const std::string& name, int heads, std::ptrdiff_t stride) {
    const int distances = 2 * model_.config.longest() - 1;
    const float* values = reader_.matrix(name, heads, distances);
    const float unscaled = std::sqrt(static_cast<float>(model_.config.head_dim));
    auto* table = model_.arena.take<float>(static_cast<std::size_t>(heads * stride));
    for (int head = 0; head < heads && table != nullptr; ++head) {
      const float* last = values + static_cast<std::ptrdiff_t>(head + 1) * distances;
      for (int i = 0; i < distances; ++i) table[head * stride + i] = unscaled * last[-1 - i];
    }
    return table == nullptr ? nullptr : table + model_.config.longest() - 1;
  }

  // Takes from the scores of tokens that are further apart than `window` so much that nothing is left of them.
  const float* window_bias(int window, std::ptrdiff_t distances) {
    constexpr float kNothingLeft = -1e30F;
    const int longest = model_.config.longest();
    auto* table = model_.arena.take<float>(static_cast<std::size_t>(distances));
    for (int i = 0; i < 2 * longest - 1 && table != nullptr; ++i) {
      table[i] = std::abs(i - (longest - 1)) > window ? kNothingLeft : 0.0F;
    }
    return table == nullptr ? nullptr : table + longest - 1;
  }

  // Of every position the cosines and sines of its angles, position / theta^(2 j / head_dim) (RoFormer, arXiv 2104.09864),
  // which are rounded as transformers does. Layers of one theta share theirs.
  const float* rotation(double theta) {
    const auto [found, added] = rotations_.try_emplace(theta, nullptr);
    if (!added) return found->second;
    const int longest = model_.config.longest(), half = model_.config.head_dim / 2;
    auto* table = model_.arena.take<float>(static_cast<std::size_t>(longest) * static_cast<std::size_t>(2 * half));
    for (int j = 0; j < half && table != nullptr; ++j) {
      const auto slowing = static_cast<float>(1.0 / std::pow(theta, 2.0 * j / (2.0 * half)));
      for (int position = 0; position < longest; ++position) {
        float* row = table + static_cast<std::ptrdiff_t>(position) * 2 * half;
        const double angle = static_cast<float>(position) * slowing;
        row[j] = static_cast<float>(std::cos(angle));
        row[half + j] = static_cast<float>(std::sin(angle));
      }
    }
    return found->second = table;
  }

  FfnLayer ffn(const std::string& name) {
    const int inner = reader_.size(name + "ffn_input.bias", model_.config.ffn);
    std::vector<std::string> matrices{name + "ffn_input"};
    if (model_.config.gated) matrices.push_back(name + "ffn_gate");
    return {.neurons = inner, .used_neurons = inner, .input = linear(matrices, inner, hidden_), .output = output(name + "ffn", inner, true)};
  }

  SublayerOutput output(const std::string& name, int inner, bool has_norm) {
    const int rows = reader_.size(name + "_output.bias", hidden_);
    SublayerOutput result{.projection = linear({name + "_output"}, rows, inner)};
    if (has_norm) result.norm = norm(name + "_norm", hidden_);
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
      sources.push_back(reader_.source(name, outputs, inner, !model_.plan.is_dense(name)));
      if (model_.plan.of(name) != model_.plan.of(names[0])) {
        throw Error("plan: " + name + " and " + names[0] + " are multiplied together and need one precision");
      }
    }
    return pack(model_.arena, sources, model_.plan.of(names[0]), kernels_);
  }

  LayerNorm norm(const std::string& name, int width) { return norm(name, width, model_.config.layer_norm_eps); }

  LayerNorm norm(const std::string& name, int width, double eps) {
    const float* weight = padded_vector(name + ".weight", width);
    const float* bias = padded_vector(name + ".bias", width);
    return {weight, bias, width, static_cast<float>(eps)};
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
  std::map<double, const float*> rotations_;  // by theta
};

}  // namespace

Model::Model(const ForwardConfig& encoder_config, const ForwardPlan& run_plan, const Arrays& arrays, const Kernels& kernels)
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
  ForwardPlan wanted{.precision = plan.precision, .dense = plan.dense, .tokens = tokens};
  wanted.check(config);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    check("heads", i, heads[i], layers[i].attention ? layers[i].attention->heads : 0);
    check("FFN rows", i, ffn[i], layers[i].ffn ? layers[i].ffn->neurons : 0);
    if (layers[i].attention) layers[i].attention->output.projection.check_inner(heads[i] * config.head_dim);
    if (layers[i].ffn) layers[i].ffn->output.projection.check_inner(ffn[i]);
    if (wanted.drops(static_cast<int>(i)) && heads[i] == 0) {
      throw Error("select: layer " + std::to_string(i) + " drops tokens and needs a head to choose them by");
    }
  }
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].attention) {
      AttentionLayer& layer = *layers[i].attention;
      layer.output.projection.use_inner(heads[i] * config.head_dim);
      layer.used_heads = heads[i];
    }
    if (layers[i].ffn) {
      FfnLayer& layer = *layers[i].ffn;
      layer.output.projection.use_inner(ffn[i]);
      layer.used_neurons = ffn[i];
    }
  }
  plan = std::move(wanted);
}

Model::Reader Model::reader_after(int layer, bool after_ffn) const {
  const auto of = [](const Linear& first, const SublayerOutput& output) {
    return Reader{first.matrix.precision, output.norm.weight == nullptr ? nullptr : &output.norm};
  };
  for (auto i = static_cast<std::size_t>(after_ffn ? layer + 1 : layer); i < layers.size(); ++i) {
    const bool attention_done = !after_ffn && i == static_cast<std::size_t>(layer);
    if (layers[i].has_attention() && !attention_done) return of(layers[i].attention->query_key_value, layers[i].attention->output);
    if (layers[i].has_ffn()) return of(layers[i].ffn->input, layers[i].ffn->output);
  }
  const bool head_reads_rows = !config.pools() && !head.empty() && head[0].dense;
  return {head_reads_rows ? head[0].dense->matrix.precision : Precision::fp32, &final_norm};
}

int Model::last_attention() const {
  for (int i = config.layers - 1; i >= 0; --i) {
    if (layers[static_cast<std::size_t>(i)].has_attention()) return i;
  }
  return -1;
}

int Model::widest_inner() const {
  int widest = widest_head();
  for (const Layer& layer : layers) {
    if (layer.attention) widest = std::max(widest, layer.attention->query_key_value.matrix.outputs);
    if (layer.ffn) widest = std::max(widest, config.gated ? layer.ffn->input.matrix.outputs : layer.ffn->neurons);
  }
  return widest;
}

int Model::widest_input() const {
  int widest = std::max(widest_head(), config.embedding);
  for (const Layer& layer : layers) {
    if (layer.attention) widest = std::max(widest, layer.attention->output.projection.matrix.inner);
    if (layer.ffn) widest = std::max(widest, layer.ffn->neurons);
  }
  return widest;
}

int Model::widest_head() const {
  int widest = config.hidden;
  for (const HeadLayer& layer : head) widest = std::max(widest, layer.width());
  return widest;
}

}  // namespace prunetime
