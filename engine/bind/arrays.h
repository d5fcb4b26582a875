// NumPy arrays in and out.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <initializer_list>
#include <memory>

namespace prunetime {

using Floats1 = nanobind::ndarray<const float, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;
using Floats2 = nanobind::ndarray<const float, nanobind::ndim<2>, nanobind::c_contig, nanobind::device::cpu>;
using State = nanobind::ndarray<float, nanobind::ndim<2>, nanobind::c_contig, nanobind::device::cpu>;
using Ints1 = nanobind::ndarray<const std::int32_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

// Whether every number of `array` lies where its type may: views of foreign bytes need not.
template <class... Ts>
bool is_aligned(const nanobind::ndarray<Ts...>& array) {
  const std::size_t size = array.itemsize();
  return size == 0 || reinterpret_cast<std::uintptr_t>(array.data()) % size == 0;
}

// A NumPy array that owns `values`, in this shape.
template <class T>
auto to_numpy(std::unique_ptr<T[]> values, std::initializer_list<std::size_t> shape) {
  T* data = values.get();
  nanobind::capsule owner(values.release(), [](void* memory) noexcept { delete[] static_cast<T*>(memory); });
  return nanobind::ndarray<nanobind::numpy, T>(data, shape, owner);
}

}  // namespace prunetime
