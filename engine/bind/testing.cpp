#include "bind/testing.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "base/arena.h"
#include "base/cpu.h"
#include "base/error.h"
#include "bind/arrays.h"
#include "kernels/dispatch.h"

namespace nb = nanobind;

namespace prunetime {
namespace {

// What the padding of a buffer holds that a kernel must not let into a result.
constexpr float kJunk = 1e30F;

// A copy with rows of row_stride(columns), the padding being `padding`.
std::vector<float> padded_rows(const Floats2& from, float padding = 0.0F) {
  const int columns = static_cast<int>(from.shape(1));
  std::vector<float> to(from.shape(0) * static_cast<std::size_t>(row_stride(columns)), padding);
  for (std::ptrdiff_t row = 0; row < static_cast<std::ptrdiff_t>(from.shape(0)); ++row) {
    std::copy_n(from.data() + row * columns, columns, to.data() + row * row_stride(columns));
  }
  return to;
}

std::vector<float> padded_vector(const Floats1& from) {
  std::vector<float> to(static_cast<std::size_t>(padded(static_cast<int>(from.size()))));
  std::copy_n(from.data(), from.size(), to.data());
  return to;
}

auto to_array(const std::vector<float>& from, int rows, int columns) {
  auto to = std::make_unique<float[]>(static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns));
  for (std::ptrdiff_t row = 0; row < rows; ++row) {
    std::copy_n(from.data() + row * row_stride(columns), columns, to.get() + row * columns);
  }
  return to_numpy(std::move(to), {static_cast<std::size_t>(rows), static_cast<std::size_t>(columns)});
}

int size_of(std::size_t value) {
  if (value < 1 || value > 1U << 20) throw Error("testing: a size of " + std::to_string(value));
  return static_cast<int>(value);
}

void check(bool holds, const char* what) {
  if (!holds) throw Error("testing: " + std::string(what));
}

Activation activation_of(const std::string& name) {
  if (name == "identity") return Activation::identity;
  if (name == "gelu") return Activation::gelu;
  if (name == "relu") return Activation::relu;
  if (name == "tanh") return Activation::tanh;
  throw Error("testing: no activation '" + name + "'");
}

auto gemm(const std::string& isa, const Floats2& input, const Floats2& weight, const Floats1& bias,
          const std::string& activation) {
  const Kernels& kernels = choose_kernels(isa);
  const int tokens = size_of(input.shape(0)), inner = size_of(input.shape(1)), outputs = size_of(weight.shape(0));
  check(size_of(weight.shape(1)) == inner && size_of(bias.size()) == outputs, "shapes of gemm do not fit");
  const auto padded_input = padded_rows(input, kJunk);
  const auto padded_bias = padded_vector(bias);
  std::vector<float> packed(kernels.packed_floats(outputs, inner));
  kernels.pack(weight.data(), outputs, inner, packed.data());
  std::vector<float> output(static_cast<std::size_t>(tokens * row_stride(outputs)));
  const FlushDenormals flush;
  kernels.gemm({.input = padded_input.data(),
                .input_stride = row_stride(inner),
                .tokens = tokens,
                .inner = inner,
                .packed = packed.data(),
                .bias = padded_bias.data(),
                .output = output.data(),
                .output_stride = row_stride(outputs),
                .first_panel = 0,
                .end_panel = kernels.panels(outputs),
                .activation = activation_of(activation)});
  return to_array(output, tokens, outputs);
}

// Seconds of the fastest of `repeats` runs.
double gemm_seconds(const std::string& isa, int tokens, int inner, int outputs, int repeats) {
  const Kernels& kernels = choose_kernels(isa);
  check(std::min({tokens, inner, outputs, repeats}) > 0, "sizes must be at least 1");
  Arena arena;
  float *input, *packed, *bias, *output;
  const auto take = [&] {
    input = arena.take<float>(static_cast<std::size_t>(tokens * row_stride(inner)));
    packed = arena.take<float>(kernels.packed_floats(outputs, inner));
    bias = arena.take<float>(static_cast<std::size_t>(padded(outputs)));
    output = arena.take<float>(static_cast<std::size_t>(tokens * row_stride(outputs)));
  };
  take();
  arena.commit();
  take();
  std::fill_n(input, tokens * row_stride(inner), 0.5F);
  std::fill_n(packed, kernels.packed_floats(outputs, inner), 0.25F);
  double fastest = 1e30;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    kernels.gemm({input, row_stride(inner), tokens, inner, packed, bias, output, row_stride(outputs), 0,
                  kernels.panels(outputs), Activation::identity});
    fastest = std::min(fastest, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return fastest;
}

auto attention(const std::string& isa, const Floats2& query, const Floats2& key, const Floats2& value) {
  const Kernels& kernels = choose_kernels(isa);
  const int length = size_of(query.shape(0)), head_dim = size_of(query.shape(1));
  for (const Floats2* other : {&key, &value}) {
    check(size_of(other->shape(0)) == length && size_of(other->shape(1)) == head_dim, "shapes of attention differ");
  }
  const auto q = padded_rows(query, kJunk), k = padded_rows(key, kJunk), v = padded_rows(value, kJunk);
  std::vector<float> context(q.size());
  std::vector<float> scratch(kernels.attention_scratch_floats(length, head_dim), kJunk);
  const FlushDenormals flush;
  kernels.attention({.query = q.data(),
                     .key = k.data(),
                     .value = v.data(),
                     .stride = row_stride(head_dim),
                     .length = length,
                     .head_dim = head_dim,
                     .scale = 1.0F / std::sqrt(static_cast<float>(head_dim)),
                     .context = context.data(),
                     .context_stride = row_stride(head_dim)},
                    scratch.data());
  return to_array(context, length, head_dim);
}

auto add_and_norm(const std::string& isa, const Floats2& hidden, const Floats2& update,
                  const std::optional<Ints1>& rows, const Floats1& weight, const Floats1& bias, float eps) {
  const Kernels& kernels = choose_kernels(isa);
  const int tokens = size_of(hidden.shape(0)), width = size_of(hidden.shape(1)), kept = size_of(update.shape(1));
  check(size_of(update.shape(0)) == tokens && size_of(weight.size()) == width && size_of(bias.size()) == width,
        "shapes of add_and_norm do not fit");
  check(rows ? rows->size() == update.shape(1) : kept == width, "rows of add_and_norm do not fit");
  std::vector<std::uint32_t> bits(static_cast<std::size_t>(padded(width) / kPad));
  for (std::size_t i = 0; rows && i < rows->size(); ++i) {
    const std::int32_t index = rows->data()[i];
    check(index >= 0 && index < width, "a row of add_and_norm is out of range");
    bits[static_cast<std::size_t>(index / kPad)] |= 1U << (index % kPad);
  }
  auto output = padded_rows(hidden);
  const auto padded_update = padded_rows(update, rows ? kJunk : 0.0F);
  const auto padded_weight = padded_vector(weight), padded_bias = padded_vector(bias);
  const FlushDenormals flush;
  kernels.add_and_norm({.hidden = output.data(),
                        .update = padded_update.data(),
                        .update_stride = row_stride(kept),
                        .kept = rows ? bits.data() : nullptr,
                        .first_token = 0,
                        .end_token = tokens},
                       {padded_weight.data(), padded_bias.data(), width, eps});
  return to_array(output, tokens, width);
}

auto embed(const std::string& isa, const Ints1& ids, const Floats2& word, const Floats2& position,
           const Floats1& weight, const Floats1& bias, float eps) {
  const Kernels& kernels = choose_kernels(isa);
  const int length = size_of(ids.size()), width = size_of(word.shape(1));
  check(size_of(position.shape(0)) >= length && size_of(position.shape(1)) == width, "shapes of embed do not fit");
  check(size_of(weight.size()) == width && size_of(bias.size()) == width, "the norm of embed does not fit");
  for (int i = 0; i < length; ++i) {
    check(ids.data()[i] >= 0 && ids.data()[i] < size_of(word.shape(0)), "an id of embed is out of range");
  }
  const auto words = padded_rows(word), positions = padded_rows(position);
  const auto padded_weight = padded_vector(weight), padded_bias = padded_vector(bias);
  std::vector<float> output(static_cast<std::size_t>(length * row_stride(width)));
  const FlushDenormals flush;
  kernels.embed({.ids = ids.data(),
                 .types = nullptr,
                 .length = length,
                 .word = words.data(),
                 .position = positions.data(),
                 .token_type = nullptr,
                 .output = output.data()},
                {padded_weight.data(), padded_bias.data(), width, eps});
  return to_array(output, length, width);
}

}  // namespace

void bind_testing(nb::module_& m) {
  m.def("gemm", &gemm, nb::arg("isa"), nb::arg("input"), nb::arg("weight"), nb::arg("bias"),
        nb::arg("activation") = "identity");
  m.def("gemm_seconds", &gemm_seconds, nb::arg("isa"), nb::arg("tokens"), nb::arg("inner"), nb::arg("outputs"),
        nb::arg("repeats"));
  m.def("attention", &attention, nb::arg("isa"), nb::arg("query"), nb::arg("key"), nb::arg("value"));
  m.def("add_and_norm", &add_and_norm, nb::arg("isa"), nb::arg("hidden"), nb::arg("update"), nb::arg("rows").none(),
        nb::arg("weight"), nb::arg("bias"), nb::arg("eps"));
  m.def("embed", &embed, nb::arg("isa"), nb::arg("ids"), nb::arg("word"), nb::arg("position"), nb::arg("weight"),
        nb::arg("bias"), nb::arg("eps"));
}

}  // namespace prunetime
