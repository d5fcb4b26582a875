// How 32-bit groups are multiplied in each precision: products of a group of the left operand, the same for all lanes,
// with the groups in the lanes of the right operand. Included once by each table, after its vector type, which is:
// kLanes, kTileRows (rows of a tile of two vectors that fit the registers), kPieceGroups (of a panel that stay in the L1
// cache while all rows pass by), kPrefetches (whether to ask for the next panel meanwhile), Vec, load, store, broadcast,
// fma, max, min, sum, expand, multiply_pairs and what quantise.inl.h needs.
//
// Each arithmetic has the bytes of a number of its operands, the Sum of a lane and multiply_add. Where a CPU has an
// instruction for a precision, its table brings its own; it names the ones it uses Bf16 and Int8.
#include "kernels/math.inl.h"

namespace prunetime {
namespace {

Ints multiply_pairs(Ints a, Ints b);
inline Vec to_floats(Ints v) { return __builtin_convertvector(v, Vec); }

// The group at `from`, in every lane.
inline Ints broadcast_group(const std::byte* from) {
  std::int32_t group;
  __builtin_memcpy(&group, from, sizeof(group));
  return Ints{} + group;
}

inline Ints load_groups(const std::uint32_t* from) { return bits_of(load(reinterpret_cast<const float*>(from))); }

struct Fp32 {
  static constexpr bool kWholeNumbers = false;
  static constexpr int kBytes = 4;
  static constexpr int kRows = kTileRows;
  using Sum = Vec;
  using Left = Vec;
  using Right = Vec;
  static Left left(const std::byte* from) { return of_bits(broadcast_group(from)); }
  static Right right(const std::uint32_t* from) { return load(reinterpret_cast<const float*>(from)); }
  static Sum multiply_add(Left left, Right right, Sum sum) { return fma(left, right, sum); }
};

// bf16 as the floats that they are.
struct Bf16AsFp32 : Fp32 {};

// Bytes as numbers of 16 bits, two to a group: products and sums are exact.
struct Int8As16Bits {
  static constexpr bool kWholeNumbers = true;
  static constexpr int kBytes = 2;
  static constexpr int kRows = kTileRows;
  using Sum = Ints;
  using Left = Ints;
  using Right = Ints;
  static Left left(const std::byte* from) { return broadcast_group(from); }
  static Right right(const std::uint32_t* from) { return load_groups(from); }
  static Sum multiply_add(Left left, Right right, Sum sum) { return sum + multiply_pairs(left, right); }
};

}  // namespace
}  // namespace prunetime
