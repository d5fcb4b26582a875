#include "encoder/weights.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"

namespace prunetime {
namespace {

const char* name_of(Type type) { return type == Type::float32 ? "float32" : "int32"; }

std::string text_of(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

bool is_block_shape(std::int64_t rows, std::int64_t columns) {
  return (rows == 32 && (columns == 32 || columns == 16 || columns == 1)) || (rows == 16 && columns == 16);
}

// Without a branch in the loop, so that it runs at the speed of memory.
bool all_finite(const float* values, std::int64_t count) {
  constexpr std::uint32_t kExponent = 0x7f800000;
  std::uint32_t found = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    found |= (std::bit_cast<std::uint32_t>(values[i]) & kExponent) == kExponent ? 1U : 0U;
  }
  return found == 0;
}

}  // namespace

const Array& WeightReader::find(const std::string& name) const {
  const auto found = arrays_.find(name);
  if (found == arrays_.end()) throw Error("weights: " + name + " is missing");
  return found->second;
}

const void* WeightReader::read(const std::string& name, Type type, const std::vector<std::int64_t>& shape) {
  const Array& array = find(name);
  if (array.type != type) {
    throw Error("weights: " + name + " is " + name_of(array.type) + "; it must be " + name_of(type));
  }
  if (array.shape != shape) {
    throw Error("weights: " + name + " has shape " + text_of(array.shape) + "; it must have " + text_of(shape));
  }
  used_.insert(name);
  return array.data;
}

const float* WeightReader::finite(const std::string& name, const std::vector<std::int64_t>& shape) {
  const bool checked = used_.count(name) > 0;
  const auto* values = static_cast<const float*>(read(name, Type::float32, shape));
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  if (checked || all_finite(values, count)) return values;
  const float* bad = std::find_if_not(values, values + count, [](float value) { return std::isfinite(value); });
  throw Error("weights: " + name + " has " + std::to_string(*bad) + " at " + std::to_string(bad - values) +
              "; every weight must be finite");
}

int WeightReader::size(const std::string& name, int most) const {
  const Array& array = find(name);
  if (array.shape.size() != 1 || array.shape[0] < 1 || array.shape[0] > most) {
    throw Error("weights: " + name + " has shape " + text_of(array.shape) + "; it must have from 1 to " +
                std::to_string(most) + " numbers");
  }
  return static_cast<int>(array.shape[0]);
}

Source WeightReader::source(const std::string& name, int outputs, int inner, bool sparse) {
  Source source{.outputs = outputs, .inner = inner, .bias = vector(name + ".bias", outputs)};
  if (!has(name + ".blocks")) {
    source.weight = matrix(name + ".weight", outputs, inner);
    return source;
  }
  const std::vector<std::int64_t> shape = find(name + ".blocks").shape;
  if (shape.size() != 3 || !is_block_shape(shape[1], shape[2])) {
    throw Error("weights: " + name + ".blocks has shape " + text_of(shape) +
                "; it must be [kept, rows, columns] with blocks of 32x32, 32x16, 16x16 or 32x1");
  }
  source.sparse = sparse;
  source.block_rows = static_cast<int>(shape[1]);
  source.block_columns = static_cast<int>(shape[2]);
  const int row_blocks = (outputs + source.block_rows - 1) / source.block_rows;
  const std::int64_t most = static_cast<std::int64_t>(row_blocks) * source.column_blocks();
  if (shape[0] > most) {
    throw Error("weights: " + name + ".blocks has " + std::to_string(shape[0]) + " blocks; the matrix has room for " +
                std::to_string(most));
  }
  source.kept = static_cast<int>(shape[0]);
  source.blocks = finite(name + ".blocks", shape);
  source.block_index = indices(name + ".block_index", source.kept, static_cast<int>(most));
  return source;
}

const float* WeightReader::matrix(const std::string& name, int rows, int columns) {
  return finite(name, {rows, columns});
}

const float* WeightReader::vector(const std::string& name, int size) { return finite(name, {size}); }

const std::int32_t* WeightReader::indices(const std::string& name, int count, int limit) {
  const auto* values = static_cast<const std::int32_t*>(read(name, Type::int32, {count}));
  for (int i = 0; i < count; ++i) {
    const int least = i == 0 ? 0 : values[i - 1] + 1;
    if (values[i] < least || values[i] >= limit) {
      throw Error("weights: " + name + " has " + std::to_string(values[i]) + " at " + std::to_string(i) +
                  "; they must ascend, from 0 to " + std::to_string(limit - 1));
    }
  }
  return values;
}

void WeightReader::check_all_read() const {
  for (const auto& [name, array] : arrays_) {
    if (used_.count(name) == 0) throw Error("weights: " + name + " is not part of this encoder");
  }
}

}  // namespace prunetime
