#include "base/arena.h"

#include <sys/mman.h>

#include <cassert>
#include <cstdint>
#include <limits>
#include <new>

namespace prunetime {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t round_up(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

Arena::~Arena() {
  if (mapping_ != nullptr) munmap(mapping_, mapped_);
}

void* Arena::take_bytes(std::size_t count, std::size_t size) {
  if (count > std::numeric_limits<std::size_t>::max() / 4 / size) throw std::bad_alloc();
  const std::size_t start = used_;
  used_ += round_up(count * size, kAlignment);
  if (counting()) return nullptr;
  assert(used_ <= capacity_);
  return memory_ + start;
}

void Arena::commit() {
  capacity_ = round_up(used_, kHugePage);
  mapped_ = capacity_ + kHugePage;
  mapping_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping_ == MAP_FAILED) {
    mapping_ = nullptr;
    throw std::bad_alloc();
  }
  memory_ = reinterpret_cast<std::byte*>(round_up(reinterpret_cast<std::uintptr_t>(mapping_), kHugePage));
#ifdef MADV_HUGEPAGE
  madvise(memory_, capacity_, MADV_HUGEPAGE);  // a hint: without huge pages it is only slower
#endif
  used_ = 0;
}

}  // namespace prunetime
