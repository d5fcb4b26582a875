#include "bind/testing.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/arena.h"
#include "base/cpu.h"
#include "base/error.h"
#include "bind/arrays.h"
#include "bind/names.h"
#include "encoder/matrix.h"
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
  if (name == "rounded_gelu") return Activation::rounded_gelu;
  if (name == "relu") return Activation::relu;
  if (name == "tanh") return Activation::tanh;
  throw Error("testing: no activation '" + name + "'");
}

std::vector<std::string> emulated_isas() {
  std::vector<std::string> names;
  for (const Kernels* kernels : emulated_kernels()) names.emplace_back(kernels->isa);
  return names;
}

// Rows in the numbers of a table, with what they need around them.
struct QuantisedRows {
  QuantisedRows(const Kernels& kernels, const std::vector<float>& from, int rows, int width, Precision precision)
      : bytes(static_cast<std::size_t>(rows * kernels.row_bytes(width, precision))),
        scale(static_cast<std::size_t>(rows)),
        zero_point(static_cast<std::size_t>(rows)),
        tensor{precision, bytes.data(), width, scale.data(), zero_point.data()} {
    kernels.quantise({from.data(), nullptr, width, 0, rows}, tensor);
  }
  std::vector<std::byte> bytes;
  std::vector<float> scale;
  std::vector<std::int32_t> zero_point;
  Tensor tensor;
};

// Number `column` of a row as a table stores it; of int8, what has to be scaled once the zero point is subtracted.
float number_at(const Kernels& kernels, Precision precision, const std::byte* row, int column) {
  const int bytes = kernels.bytes(precision);
  std::uint32_t bits = 0;
  std::memcpy(&bits, row + static_cast<std::ptrdiff_t>(column) * bytes, static_cast<std::size_t>(bytes));
  if (precision == Precision::int8) {
    return bytes == 1 ? static_cast<float>(bits) : static_cast<float>(static_cast<std::int16_t>(bits));
  }
  return std::bit_cast<float>(bits << (32 - 8 * bytes));
}

using Blocks = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

// `weight` is a matrix, or a pair of kept blocks and their indices; `written` as bf16, the result is rounded.
auto gemm(const std::string& isa, const Floats2& input, const nb::object& weight, const Floats1& bias,
          const std::string& activation, Precision precision, Precision written, int used_inner) {
  const Kernels& kernels = choose_kernels(isa);
  const int tokens = size_of(input.shape(0)), inner = size_of(input.shape(1)), outputs = size_of(bias.size());
  Source source{.outputs = outputs, .inner = inner, .bias = bias.data()};
  Floats2 matrix;
  std::pair<Blocks, Ints1> blocks;
  if (nb::try_cast(weight, matrix)) {
    check(size_of(matrix.shape(0)) == outputs && size_of(matrix.shape(1)) == inner, "shapes of gemm do not fit");
    source.weight = matrix.data();
  } else {
    blocks = nb::cast<std::pair<Blocks, Ints1>>(weight);
    source.sparse = true;
    source.blocks = blocks.first.data();
    source.block_index = blocks.second.data();
    source.kept = static_cast<int>(blocks.second.size());
    source.block_rows = size_of(blocks.first.shape(1));
    source.block_columns = size_of(blocks.first.shape(2));
    check(blocks.first.shape(0) == blocks.second.size(), "blocks and indices of gemm do not fit");
  }
  const FlushDenormals flush;
  const QuantisedRows rows(kernels, padded_rows(input), tokens, inner, precision);
  Arena arena;
  pack(arena, {source}, precision, kernels);
  arena.commit();
  Linear linear = pack(arena, {source}, precision, kernels);
  if (used_inner > 0) {
    linear.check_inner(used_inner);
    linear.use_inner(used_inner);
  }
  std::vector<float> output(static_cast<std::size_t>(tokens * row_stride(outputs)));
  kernels.gemm({.input = rows.tensor,
                .tokens = tokens,
                .matrix = linear.matrix,
                .output = output.data(),
                .output_bytes = kernels.row_bytes(outputs, written),
                .output_precision = written,
                .activation = activation_of(activation),
                .first_strip = 0,
                .end_strip = linear.matrix.strips()});
  kernels.release();
  if (written == Precision::bf16) {
    std::vector<float> floats(output.size());
    for (int row = 0; row < tokens; ++row) {
      const auto* from = reinterpret_cast<const std::byte*>(output.data()) + row * kernels.row_bytes(outputs, written);
      for (int column = 0; column < outputs; ++column) {
        floats[static_cast<std::size_t>(row * row_stride(outputs) + column)] = number_at(kernels, written, from, column);
      }
    }
    output = floats;
  }
  return to_array(output, tokens, outputs);
}

// The numbers that `rows` are once a table has quantised them.
auto quantise(const std::string& isa, const Floats2& rows, Precision precision) {
  const Kernels& kernels = choose_kernels(isa);
  const int count = size_of(rows.shape(0)), width = size_of(rows.shape(1));
  const FlushDenormals flush;
  const QuantisedRows quantised(kernels, padded_rows(rows), count, width, precision);
  std::vector<float> numbers(static_cast<std::size_t>(count * row_stride(width)));
  for (int row = 0; row < count; ++row) {
    const Precision written = quantised.tensor.precision;
    const std::byte* from = quantised.bytes.data() + row * kernels.row_bytes(width, written);
    const auto index = static_cast<std::size_t>(row);
    for (int column = 0; column < width; ++column) {
      float& number = numbers[static_cast<std::size_t>(row * row_stride(width) + column)];
      number = number_at(kernels, written, from, column);
      if (written == Precision::int8) number = quantised.scale[index] * (number - static_cast<float>(quantised.zero_point[index]));
    }
  }
  return to_array(numbers, count, width);
}

// In `narrow` precision, query, key and value must be numbers that it has.
auto attention(const std::string& isa, const Floats2& query, const Floats2& key, const Floats2& value, bool narrow) {
  const Kernels& kernels = choose_kernels(isa);
  const Precision precision = narrow ? kernels.narrow_attention : Precision::fp32;
  const int length = size_of(query.shape(0)), head_dim = size_of(query.shape(1));
  for (const Floats2* other : {&key, &value}) {
    check(size_of(other->shape(0)) == length && size_of(other->shape(1)) == head_dim, "shapes of attention differ");
  }
  const QuantisedRows q(kernels, padded_rows(query, kJunk), length, head_dim, precision);
  const QuantisedRows k(kernels, padded_rows(key, kJunk), length, head_dim, precision);
  const QuantisedRows v(kernels, padded_rows(value, kJunk), length, head_dim, precision);
  std::vector<float> context(static_cast<std::size_t>(length * row_stride(head_dim)));
  std::vector<float> scratch(kernels.attention_scratch_floats(length, head_dim), kJunk);
  auto received = std::make_unique<float[]>(query.shape(0));
  const FlushDenormals flush;
  kernels.attention({.precision = precision,
                     .query = q.bytes.data(),
                     .key = k.bytes.data(),
                     .value = v.bytes.data(),
                     .stride = kernels.row_bytes(head_dim, precision) / kernels.bytes(precision),
                     .queries = length,
                     .length = length,
                     .head_dim = head_dim,
                     .scale = 1.0F / std::sqrt(static_cast<float>(head_dim)),
                     .bias = nullptr,
                     .window = 0,
                     .context = context.data(),
                     .context_stride = row_stride(head_dim),
                     .received = received.get()},
                    scratch.data());
  return std::pair(to_array(context, length, head_dim), to_numpy(std::move(received), {query.shape(0)}));
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
                        .normed = output.data(),
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
  m.def("emulated_isas", &emulated_isas, "The tables that stand in for an instruction set that this CPU lacks.");
  m.def("gemm", &gemm, nb::arg("isa"), nb::arg("input"), nb::arg("weight"), nb::arg("bias"),
        nb::arg("activation") = "identity", nb::arg("precision") = Precision::fp32, nb::arg("output_precision") = Precision::fp32,
        nb::arg("used_inner") = 0);
  m.def("quantise", &quantise, nb::arg("isa"), nb::arg("rows"), nb::arg("precision"));
  m.def("attention", &attention, nb::arg("isa"), nb::arg("query"), nb::arg("key"), nb::arg("value"),
        nb::arg("narrow") = false,
        "The context, and what every key received.");
  m.def("add_and_norm", &add_and_norm, nb::arg("isa"), nb::arg("hidden"), nb::arg("update"), nb::arg("rows").none(),
        nb::arg("weight"), nb::arg("bias"), nb::arg("eps"));
  m.def("embed", &embed, nb::arg("isa"), nb::arg("ids"), nb::arg("word"), nb::arg("position"), nb::arg("weight"),
        nb::arg("bias"), nb::arg("eps"));
}

}  // namespace prunetime
