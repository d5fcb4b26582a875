// The Python module prunetime._engine: checks what comes in, lets go of the GIL, runs the encoder.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "bind/arrays.h"
#include "bind/config.h"
#include "bind/names.h"
#include "bind/peaks.h"
#include "bind/testing.h"
#include "encoder/encoder.h"
#include "encoder/reference_kernel.h"
#include "kernels/dispatch.h"

namespace nb = nanobind;

namespace prunetime {
namespace {

// `value` as Python shows it, for messages.
std::string shown(nb::handle value) { return nb::cast<std::string>(nb::repr(value)); }

using AnyArray = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

// Weights from Python: views of the arrays of numbers, copies of the arrays of indices. Another Python thread could write to
// an array while it is packed, and an index must still be the one that was checked.
struct Weights {
  Arrays arrays;
  std::vector<AnyArray> owners;
  std::vector<std::vector<std::int32_t>> indices;
};

Weights weights_of(const nb::dict& weights) {
  Weights result;
  for (const auto& [key, value] : weights) {
    std::string name;
    if (!nb::try_cast<std::string>(key, name, false)) throw Error("weights: " + shown(key) + " is not a name");
    AnyArray array;
    if (!nb::try_cast<AnyArray>(value, array, false) || !array.is_valid()) {
      throw Error("weights: " + name + " is not a C-contiguous NumPy array of numbers");
    }
    if (!is_aligned(array)) throw Error("weights: " + name + " is not aligned in memory; copy it");
    const bool is_float = array.dtype() == nb::dtype<float>();
    if (!is_float && array.dtype() != nb::dtype<std::int32_t>()) {
      throw Error("weights: " + name + " is neither float32 nor int32");
    }
    Array& view = result.arrays[name];
    view.type = is_float ? Type::float32 : Type::int32;
    for (std::size_t i = 0; i < array.ndim(); ++i) view.shape.push_back(static_cast<std::int64_t>(array.shape(i)));
    view.data = array.data();
    if (!is_float) {
      const auto* values = static_cast<const std::int32_t*>(array.data());
      view.data = result.indices.emplace_back(values, values + array.size()).data();
    }
    result.owners.push_back(std::move(array));
  }
  return result;
}

// `value` as one row of int32, which nothing converts: a wrong type is a mistake of the caller.
Ints1 ints_of(nb::handle value, const char* name) {
  Ints1 array;
  if (!nb::try_cast<Ints1>(value, array, false) || !array.is_valid()) {
    throw Error(std::string(name) + " is " + shown(value.type()) +
                "; it must be a one-dimensional, contiguous NumPy array of int32");
  }
  if (!is_aligned(array)) throw Error(std::string(name) + " are not aligned in memory; copy them");
  return array;
}

// What one call brings.
struct Request {
  Request(nb::handle ids_given, nb::handle types_given, nb::handle offsets_given, nb::handle skipped_given)
      : ids(ints_of(ids_given, "ids")),
        types(ints_of(types_given, "types")),
        offsets(ints_of(offsets_given, "offsets")),
        skips(!skipped_given.is_none()) {
    constexpr std::size_t kMost = std::size_t{1} << 30;
    if (offsets.size() == 0) throw Error("offsets are empty; they hold one number more than there are sequences");
    if (ids.size() != types.size()) {
      throw Error("there are " + std::to_string(ids.size()) + " ids and " + std::to_string(types.size()) + " types");
    }
    if (ids.size() > kMost) throw Error("a batch has at most 2^30 tokens, not " + std::to_string(ids.size()));
    if (sequences() > ids.size()) {
      throw Error("offsets are for " + std::to_string(sequences()) + " sequences, but there are only " +
                  std::to_string(ids.size()) + " ids; every sequence needs at least 1");
    }
    if (skips) skipped = ints_of(skipped_given, "skipped");
    if (skips && skipped.size() != sequences()) {
      throw Error("skipped has " + std::to_string(skipped.size()) + " numbers for " + std::to_string(sequences()) +
                  " sequences");
    }
  }

  std::size_t sequences() const { return offsets.size() - 1; }

  Ints1 ids, types, offsets, skipped;
  bool skips;
};

// An encoder that any number of Python threads may call; they take turns.
class SharedEncoder {
 public:
  SharedEncoder(const ForwardConfig& config, const ForwardPlan& plan, const nb::dict& weights, int threads,
                const std::string& isa) {
    const Kernels& kernels = choose_kernels(isa);
    const Weights given = weights_of(weights);
    const nb::gil_scoped_release release;
    encoder_ = std::make_unique<Encoder>(config, plan, given.arrays, threads, kernels);
  }

  void select(const std::vector<int>& heads, const std::vector<int>& ffn, const std::vector<double>& tokens) {
    const nb::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    encoder_->select(heads, ffn, tokens);
  }

  auto forward(nb::handle ids, nb::handle types, nb::handle offsets, nb::handle skipped) {
    const Request request(ids, types, offsets, skipped);
    return to_numpy(run(request, {}, {}), {logit_rows(request), outputs()});
  }

  auto forward_timed(nb::handle ids, nb::handle types, nb::handle offsets, nb::handle skipped) {
    const Request request(ids, types, offsets, skipped);
    const std::size_t slots = 2 * layers() + 2;
    std::vector<std::int64_t> nanoseconds(slots);
    auto logits = run(request, {.sublayer_ns = nanoseconds.data()}, {});
    auto times = std::make_unique<double[]>(slots);
    std::copy(nanoseconds.begin(), nanoseconds.end(), times.get());
    return std::pair(to_numpy(std::move(logits), {logit_rows(request), outputs()}),
                     to_numpy(std::move(times), {slots}));
  }

  // Logits, and [layers, tokens] whether a token is left after a layer.
  auto forward_kept(nb::handle ids, nb::handle types, nb::handle offsets, nb::handle skipped) {
    const Request request(ids, types, offsets, skipped);
    const std::size_t tokens = request.ids.size();
    auto kept = std::make_unique<std::uint8_t[]>(layers() * tokens);
    auto logits = run(request, {.kept = kept.get()}, {});
    return std::pair(to_numpy(std::move(logits), {logit_rows(request), outputs()}),
                     to_numpy(std::move(kept), {layers(), tokens}));
  }

  // Logits of a pass that begins before layer `first` with `start`, the state that an earlier pass left there, or with
  // None at the embedding. States are left in the arrays of `leave`, by the layer that they come into.
  auto forward_between(nb::handle ids, nb::handle types, nb::handle offsets, int first, nb::handle start,
                       const std::map<int, nb::handle>& leave, nb::handle skipped) {
    const Request request(ids, types, offsets, skipped);
    std::vector<State> owners;
    const auto state = [&](int layer, nb::handle value) {
      return owners.emplace_back(state_of(layer, value, request.ids.size())).data();
    };
    const Start from{start.is_none() ? 0 : first, start.is_none() ? nullptr : state(first, start)};
    std::vector<float*> states(layers());
    for (const auto& [layer, value] : leave) {
      float* data = state(layer, value);
      states[static_cast<std::size_t>(layer)] = data;
    }
    return to_numpy(run(request, {.states = states.data()}, from), {logit_rows(request), outputs()});
  }

  // Heads, attention output rows, FFN neurons and FFN output rows stored of each layer.
  std::vector<std::tuple<int, int, int, int>> layer_counts() const {
    std::vector<std::tuple<int, int, int, int>> counts;
    for (const Layer& layer : encoder_->layers()) {
      counts.push_back({layer.attention ? layer.attention->heads : 0,
                        layer.attention ? layer.attention->output.projection.matrix.outputs : 0,
                        layer.ffn ? layer.ffn->neurons : 0, layer.ffn ? layer.ffn->output.projection.matrix.outputs : 0});
    }
    return counts;
  }

  const Encoder& encoder() const { return *encoder_; }

 private:
  std::size_t outputs() const { return static_cast<std::size_t>(encoder_->config().outputs); }
  std::size_t layers() const { return static_cast<std::size_t>(encoder_->config().layers); }
  std::size_t logit_rows(const Request& request) const {
    return encoder_->config().rows == Rows::all ? request.ids.size() : request.sequences();
  }

  // `value` as the state before `layer` of a batch of so many tokens.
  State state_of(int layer, nb::handle value, std::size_t tokens) const {
    State array;
    const auto hidden = static_cast<std::size_t>(encoder_->config().hidden);
    if (layer < 0 || layer >= encoder_->config().layers) {
      throw Error("a state before layer " + std::to_string(layer) + " of " + std::to_string(layers()));
    }
    if (!nb::try_cast<State>(value, array, false) || !array.is_valid() || !is_aligned(array) ||
        array.shape(0) != tokens || array.shape(1) != hidden) {
      throw Error("a state is " + shown(value.type()) + "; it must be a contiguous, writable NumPy array of float32 [" +
                  std::to_string(tokens) + ", " + std::to_string(hidden) + "]");
    }
    return array;
  }

  std::unique_ptr<float[]> run(const Request& request, const Trace& trace, const Start& start) {
    auto logits = std::make_unique<float[]>(logit_rows(request) * outputs());
    const nb::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    // Copied before they are checked: another Python thread could write to them while the encoder runs.
    ids_.assign(request.ids.data(), request.ids.data() + request.ids.size());
    types_.assign(request.types.data(), request.types.data() + request.types.size());
    offsets_.assign(request.offsets.data(), request.offsets.data() + request.offsets.size());
    if (request.skips) skipped_.assign(request.skipped.data(), request.skipped.data() + request.skipped.size());
    const Batch batch{ids_.data(), types_.data(), offsets_.data(), static_cast<int>(request.sequences()),
                      request.skips ? skipped_.data() : nullptr};
    batch.check(encoder_->config(), static_cast<std::int64_t>(ids_.size()));
    encoder_->forward(batch, logits.get(), trace, start);
    return logits;
  }

  std::unique_ptr<Encoder> encoder_;
  std::mutex mutex_;
  std::vector<std::int32_t> ids_, types_, offsets_, skipped_;
};

std::vector<std::tuple<std::string, std::string, std::vector<std::string>>> isa_tables() {
  std::vector<std::tuple<std::string, std::string, std::vector<std::string>>> tables;
  for (const Kernels* kernels : all_kernels()) {
    tables.emplace_back(kernels->isa, kernels->description, names_of(kernels->required));
  }
  return tables;
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Kernels* kernels : supported_kernels()) names.emplace_back(kernels->isa);
  return names;
}

}  // namespace
}  // namespace prunetime

NB_MODULE(_engine, m) {
  using namespace prunetime;
  m.attr("BUILD") = PRUNETIME_BUILD;
  m.def("isa_tables", &isa_tables, "Name, description and required instruction sets of each table of this build.");
  m.def("supported_isas", &supported_isas, "The names of the tables that this CPU runs, slowest first.");
  m.def("chosen_isa", [] { return choose_kernels("").isa; }, "The name of the table that runs where none is named.");
  m.def("narrow_attention", [](const std::string& isa) { return choose_kernels(isa).narrow_attention; });

  m.def("number_bytes", [](const std::string& isa) {
    const Kernels& kernels = choose_kernels(isa);
    std::map<std::string, int> bytes;
    for (const auto& [name, precision] : Names<Precision>::values) bytes[name] = kernels.bytes(precision);
    return bytes;
  });

  bind_config(m);

  nb::class_<SharedEncoder>(m, "SharedEncoder")
      .def(nb::init<const ForwardConfig&, const ForwardPlan&, const nb::dict&, int, const std::string&>(), nb::arg("config"),
           nb::arg("plan"), nb::arg("weights"), nb::arg("threads"), nb::arg("isa") = "")
      .def("select", &SharedEncoder::select, nb::arg("heads"), nb::arg("ffn"), nb::arg("tokens"))
      .def("forward", &SharedEncoder::forward, nb::arg("ids").none(), nb::arg("types").none(),
           nb::arg("offsets").none(), nb::arg("skipped").none() = nb::none())
      .def("forward_timed", &SharedEncoder::forward_timed, nb::arg("ids").none(), nb::arg("types").none(),
           nb::arg("offsets").none(), nb::arg("skipped").none() = nb::none())
      .def("forward_kept", &SharedEncoder::forward_kept, nb::arg("ids").none(), nb::arg("types").none(),
           nb::arg("offsets").none(), nb::arg("skipped").none() = nb::none())
      .def("forward_between", &SharedEncoder::forward_between, nb::arg("ids").none(), nb::arg("types").none(),
           nb::arg("offsets").none(), nb::arg("first"), nb::arg("start").none(), nb::arg("leave"),
           nb::arg("skipped").none() = nb::none())
      .def_prop_ro("layer_counts", &SharedEncoder::layer_counts)
      .def_prop_ro("isa", [](const SharedEncoder& e) { return e.encoder().isa(); })
      .def_prop_ro("threads", [](const SharedEncoder& e) { return e.encoder().threads(); })
      .def_prop_ro("weight_bytes", [](const SharedEncoder& e) { return e.encoder().weight_bytes(); });

  nb::class_<ReferenceKernel>(m, "ReferenceKernel")
      .def("__init__",
           [](ReferenceKernel* self, const std::string& isa) { new (self) ReferenceKernel(choose_kernels(isa)); },
           nb::arg("isa") = "")
      .def("run", &ReferenceKernel::run)
      .def_prop_ro("isa", &ReferenceKernel::isa);

  bind_peaks(m);

  nb::module_ testing = m.def_submodule("testing");
  bind_testing(testing);
}
