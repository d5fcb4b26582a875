// Packing weights into what the GEMM reads.
#pragma once

#include <cstdint>
#include <vector>

#include "base/arena.h"
#include "kernels/kernels.h"

namespace prunetime {

// One matrix [outputs, inner] with its bias [outputs], as somebody else stores it: dense, or as the `kept` blocks of
// `block_rows` x `block_columns` weights, in ascending order of row block * column blocks + column block. One in blocks is
// packed block by block where it is `sparse`, and otherwise with its zeros.
struct Source {
  int outputs;
  int inner;
  const float* bias;
  const float* weight = nullptr;  // [outputs, inner]; null: blocks
  const float* blocks = nullptr;  // [kept, block_rows, block_columns]
  const std::int32_t* block_index = nullptr;
  int kept = 0;
  int block_rows = 0;
  int block_columns = 0;
  bool sparse = false;

  int column_blocks() const { return (inner + block_columns - 1) / block_columns; }
};

// A packed matrix of which a prefix can be used.
struct Linear {
  Matrix matrix;
  int panel = 0;                       // outputs of one of its panels
  std::int32_t* end_block = nullptr;   // Matrix::end_block
  std::int32_t* weight_sum = nullptr;  // Matrix::weight_sum

  // Throws Error where the first `inner` of the inner dimension are not a whole number of groups and blocks.
  void check_inner(int inner) const;
  // Multiplies only the first `inner` of the inner dimension from now on.
  void use_inner(int inner);
};

// One matrix of `sources` below one another, each padded to a multiple of kPad outputs; all have the same inner size.
// Runs twice, as everything that takes from an arena: while it counts, and again to copy.
Linear pack(Arena& arena, const std::vector<Source>& sources, Precision precision, const Kernels& kernels);

}  // namespace prunetime
