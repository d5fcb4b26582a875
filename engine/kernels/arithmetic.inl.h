// How 32-bit groups are multiplied in each precision: products of a group of the left operand, the same for all lanes,
// with the groups in the lanes of the right operand. Included once by each table, after its vector type, which is:
// kLanes, kTileRows and kSplitTileRows (rows of a tile of two vectors that fit the registers), Vec, load, store,
// broadcast, fma, max, min, sum, expand, multiply_pairs and what encode.inl.h needs.
//
// Each arithmetic has the Sum of a lane and multiply_add. Where a CPU has an instruction for a precision, its table
// brings its own; it names the ones it uses Bf16 and Int8.
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
  static constexpr int kRows = kTileRows;
  using Sum = Vec;
  using Left = Vec;
  using Right = Vec;
  static Left left(const std::byte* from) { return of_bits(broadcast_group(from)); }
  static Right right(const std::uint32_t* from) { return load(reinterpret_cast<const float*>(from)); }
  static Sum multiply_add(Left left, Right right, Sum sum) { return fma(left, right, sum); }
};

// bf16 is the upper half of a float: the two numbers of a group become two floats.
struct SplitBf16 {
  static constexpr bool kWholeNumbers = false;
  static constexpr int kRows = kSplitTileRows;
  using Sum = Vec;
  struct Pair {
    Vec first, second;
  };
  using Left = Pair;
  using Right = Pair;
  static Pair split(Ints group) { return {of_bits(group << 16), of_bits(group & ~0xffff)}; }
  static Left left(const std::byte* from) { return split(broadcast_group(from)); }
  static Right right(const std::uint32_t* from) { return split(load_groups(from)); }
  static Sum multiply_add(const Left& left, const Right& right, Sum sum) {
    return fma(left.second, right.second, fma(left.first, right.first, sum));
  }
};

// Bytes as pairs of 16 bits, the even and the odd ones: products and sums are exact.
struct SplitInt8 {
  static constexpr bool kWholeNumbers = true;
  static constexpr int kRows = kSplitTileRows;
  using Sum = Ints;
  struct Pair {
    Ints even, odd;
  };
  using Left = Pair;
  using Right = Pair;
  static Left left(const std::byte* from) {
    const Ints group = broadcast_group(from);
    return {group & 0x00ff00ff, (group >> 8) & 0x00ff00ff};
  }
  static Right right(const std::uint32_t* from) {
    const Ints group = load_groups(from);
    return {shift_right_16(shift_left_16(group, 8), 8), shift_right_16(group, 8)};
  }
  static Sum multiply_add(const Left& left, const Right& right, Sum sum) {
    return sum + multiply_pairs(left.even, right.even) + multiply_pairs(left.odd, right.odd);
  }

 private:
  using Shorts = std::int16_t __attribute__((vector_size(sizeof(Ints))));
  static Ints shift_left_16(Ints v, int by) { return reinterpret_cast<Ints>(reinterpret_cast<Shorts>(v) << by); }
  static Ints shift_right_16(Ints v, int by) { return reinterpret_cast<Ints>(reinterpret_cast<Shorts>(v) >> by); }
};

}  // namespace
}  // namespace prunetime
