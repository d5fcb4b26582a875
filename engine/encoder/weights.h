// The arrays that a model is loaded from, and the reader that takes nothing about them on faith.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "encoder/matrix.h"

namespace prunetime {

enum class Type { float32, int32 };

// A dense row-major array that somebody else owns.
struct Array {
  Type type;
  std::vector<std::int64_t> shape;
  const void* data;
};

using Arrays = std::map<std::string, Array>;

// Every method throws Error, naming the array, what it is and what it must be.
class WeightReader {
 public:
  explicit WeightReader(const Arrays& arrays) : arrays_(arrays) {}

  bool has(const std::string& name) const { return arrays_.count(name) > 0; }
  // Size of the vector `name`, which must be from 1 to `most`.
  int size(const std::string& name, int most) const;
  // A matrix [rows, columns] of finite numbers.
  const float* matrix(const std::string& name, int rows, int columns);
  // The matrix [outputs, inner] that is stored as `name`.weight, or as `name`.blocks and `name`.block_index, and its bias.
  // One in blocks is multiplied by them, where it is to be `sparse`.
  Source source(const std::string& name, int outputs, int inner, bool sparse);
  // A vector [size] of finite numbers.
  const float* vector(const std::string& name, int size);
  // `count` ascending indices below `limit`.
  const std::int32_t* indices(const std::string& name, int count, int limit);
  // Throws where an array was given that nothing has read.
  void check_all_read() const;

 private:
  const Array& find(const std::string& name) const;
  const void* read(const std::string& name, Type type, const std::vector<std::int64_t>& shape);
  const float* finite(const std::string& name, const std::vector<std::int64_t>& shape);

  const Arrays& arrays_;
  std::set<std::string> used_;
};

}  // namespace prunetime
