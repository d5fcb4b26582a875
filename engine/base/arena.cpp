#include "base/arena.h"

#include <sys/mman.h>

#include <cassert>
#include <cstdint>
#include <limits>
#include <new>

#ifdef PRUNETIME_POISON  // under AddressSanitizer the bytes between two pieces are out of bounds (tests/sanitizers.py)
extern "C" void __asan_poison_memory_region(const volatile void* start, std::size_t bytes);
extern "C" void __asan_unpoison_memory_region(const volatile void* start, std::size_t bytes);
#endif

namespace prunetime {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t round_up(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

#ifdef PRUNETIME_POISON
constexpr std::size_t kGap = Arena::kAlignment;
void forbid(const void* start, std::size_t bytes) { __asan_poison_memory_region(start, bytes); }
void allow(const void* start, std::size_t bytes) { __asan_unpoison_memory_region(start, bytes); }
#else
constexpr std::size_t kGap = 0;
void forbid(const void*, std::size_t) {}
void allow(const void*, std::size_t) {}
#endif

}  // namespace

Arena::~Arena() {
  if (mapping_ == nullptr) return;
  allow(memory_, capacity_);
  munmap(mapping_, mapped_);
}

void* Arena::take_bytes(std::size_t count, std::size_t size) {
  if (count > std::numeric_limits<std::size_t>::max() / 4 / size) throw std::bad_alloc();
  const std::size_t start = used_;
  used_ += round_up(count * size, kAlignment) + kGap;
  if (counting()) return nullptr;
  assert(used_ <= capacity_);
  allow(memory_ + start, count * size);
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
  forbid(memory_, capacity_);
  used_ = 0;
}

}  // namespace prunetime
