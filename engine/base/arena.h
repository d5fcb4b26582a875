// One allocation for everything of one lifetime: sizes are counted first, then memory is handed out.
#pragma once

#include <cstddef>

namespace prunetime {

// Use: take() everything once (null pointers come back, sizes are counted), commit(), take() the same again.
class Arena {
 public:
  static constexpr std::size_t kAlignment = 128;  // bytes; every piece starts on a pair of cache lines

  Arena() = default;
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Room for `count` values of T, zero-filled; null while counting.
  template <class T>
  T* take(std::size_t count) {
    return static_cast<T*>(take_bytes(count, sizeof(T)));
  }

  // Allocates what was counted, on 2 MiB pages where the system gives them. Throws std::bad_alloc.
  void commit();

  bool counting() const { return memory_ == nullptr; }
  std::size_t bytes() const { return used_; }

 private:
  void* take_bytes(std::size_t count, std::size_t size);

  std::byte* memory_ = nullptr;
  void* mapping_ = nullptr;
  std::size_t mapped_ = 0;
  std::size_t capacity_ = 0;
  std::size_t used_ = 0;
};

}  // namespace prunetime
