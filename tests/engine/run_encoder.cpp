// Runs an encoder where there is no Python: arrays on standard input, logits on standard output, the table that was
// chosen on standard error. An array is "name type rank sizes\n" and its numbers as they lie in memory. Those that are
// not weights are called run.*.
#include <cstdint>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "base/error.h"
#include "encoder/encoder.h"
#include "kernels/dispatch.h"

namespace prunetime {
namespace {

struct Input {
  Arrays arrays;
  std::vector<std::vector<std::uint32_t>> memory;
};

Input read(std::istream& in) {
  Input input;
  std::string name, type;
  for (int rank = 0; in >> name >> type >> rank;) {
    Array& array = input.arrays[name];
    array.type = type == "float32" ? Type::float32 : Type::int32;
    array.shape.resize(static_cast<std::size_t>(rank));
    std::size_t count = 1;
    for (std::int64_t& size : array.shape) {
      in >> size;
      count *= static_cast<std::size_t>(size);
    }
    in.get();
    input.memory.emplace_back(count);
    in.read(reinterpret_cast<char*>(input.memory.back().data()), static_cast<std::streamsize>(4 * count));
    array.data = input.memory.back().data();
  }
  if (!in.eof()) throw Error("standard input does not end with an array");
  return input;
}

// The array `name`, which is then no longer one of the weights.
template <class T>
std::vector<T> take(Arrays& arrays, const std::string& name) {
  const auto found = arrays.find(name);
  if (found == arrays.end()) throw Error(name + " is missing");
  const auto* values = static_cast<const T*>(found->second.data);
  std::vector<T> taken(values, values + found->second.shape.at(0));
  arrays.erase(found);
  return taken;
}

void run() {
  Input input = read(std::cin);
  const auto size = [&](const char* name) { return take<std::int32_t>(input.arrays, name).at(0); };
  const auto ids = take<std::int32_t>(input.arrays, "run.ids");
  const auto types = take<std::int32_t>(input.arrays, "run.types");
  const auto offsets = take<std::int32_t>(input.arrays, "run.offsets");
  const auto tokens = take<float>(input.arrays, "run.tokens");
  const int hidden = size("run.hidden"), outputs = size("run.outputs");
  const ForwardConfig config{.layers = size("run.layers"),
                             .embedding = size("run.embedding"),
                             .hidden = hidden,
                             .heads = size("run.heads"),
                             .head_dim = size("run.head_dim"),
                             .ffn = size("run.ffn"),
                             .vocabulary = size("run.vocabulary"),
                             .positions = size("run.positions"),
                             .position_offset = size("run.position_offset"),
                             .token_types = size("run.token_types"),
                             .outputs = outputs,
                             .layer_norm_eps = take<float>(input.arrays, "run.layer_norm_eps").at(0),
                             .relative_positions = size("run.relative_positions") != 0,
                             .rotary_theta = {},
                             .rotary_window = {},
                             .pre_norm = size("run.pre_norm") != 0,
                             .gated = size("run.gated") != 0,
                             .rows = Rows::first,
                             .head = {{"head.dense", HeadLayerKind::dense, hidden, Activation::tanh, 0.0},
                                      {"head.output", HeadLayerKind::dense, outputs, Activation::identity, 0.0}},
                             .normalize = size("run.normalize") != 0,
                             .separator = size("run.separator")};
  ForwardPlan plan{.precision = {}, .dense = {}, .tokens = {tokens.begin(), tokens.end()}};
  const std::string prefix = "run.precision.";
  for (auto at = input.arrays.lower_bound(prefix); at != input.arrays.end() && at->first.starts_with(prefix);) {
    const std::string name = (at++)->first;
    plan.precision[name.substr(prefix.size())] = static_cast<Precision>(take<std::int32_t>(input.arrays, name).at(0));
  }
  Encoder encoder(config, plan, input.arrays, 2, choose_kernels(""));
  const Batch batch{ids.data(), types.data(), offsets.data(), static_cast<int>(offsets.size()) - 1};
  batch.check(config, static_cast<std::int64_t>(ids.size()));
  std::vector<float> logits(static_cast<std::size_t>(encoder.logit_rows(batch) * config.outputs));
  encoder.forward(batch, logits.data(), {}, {});
  std::cerr << encoder.isa();
  std::cout.write(reinterpret_cast<const char*>(logits.data()), static_cast<std::streamsize>(4 * logits.size()));
}

}  // namespace
}  // namespace prunetime

int main() {
  try {
    prunetime::run();
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
