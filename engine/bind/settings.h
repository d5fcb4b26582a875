// Structs of settings as Python classes: made of keyword arguments, read by attributes. Each field is named once, in the
// list that bind_settings is given. A value of the wrong type is an Error that names the field and shows the value.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace prunetime {

// The names of an enum's values in Python: a specialisation has them as `values`, pairs of a name and its value.
template <class Enum>
struct Names {};

template <class Enum>
concept Named = requires { Names<Enum>::values; };

// An argument that should be a T; one that is not is told apart once the field that it is for is known.
template <class T>
struct Given {
  nanobind::handle source;
  T value{};
  bool is_valid = false;
};

template <class T>
std::string requirement() {
  if constexpr (Named<T>) {
    std::string names;
    const std::size_t count = std::size(Names<T>::values);
    for (std::size_t i = 0; i < count; ++i) {
      names += (i == 0 ? "" : i + 1 == count ? " or " : ", ") + std::string(Names<T>::values[i].first);
    }
    return "it must be " + names;
  } else {
    return "its type or range is wrong";
  }
}

template <class Struct, class Value>
struct Field {
  const char* name;
  Value Struct::*member;

  void set(const char* where, Struct& settings, const Given<Value>& given) const {
    if (!given.is_valid) {
      throw Error(std::string(where) + ": " + name + " is " + nanobind::cast<std::string>(nanobind::repr(given.source)) +
                  "; " + requirement<Value>());
    }
    settings.*member = given.value;
  }
};

template <class Struct, class Value>
Field(const char*, Value Struct::*) -> Field<Struct, Value>;

// The class `name` of Python; `where` is what errors begin with.
template <class Struct, class... Values>
void bind_settings(nanobind::module_& m, const char* name, const char* where, const char* doc,
                   const Field<Struct, Values>... fields) {
  nanobind::class_<Struct> type(m, name, doc);
  type.def(
      "__init__",
      [where, fields...](Struct* self, const Given<Values>&... given) {
        Struct settings{};
        (fields.set(where, settings, given), ...);
        new (self) Struct(std::move(settings));
      },
      nanobind::kw_only(), nanobind::arg(fields.name)...);
  (type.def_ro(fields.name, fields.member), ...);
}

}  // namespace prunetime

namespace nanobind::detail {

// Writes typing.Literal of an enum's names, where `to` is given; returns how long it is.
template <prunetime::Named Enum>
constexpr std::size_t write_literal(char* to) {
  std::size_t size = 0;
  const auto add = [&](std::string_view text) {
    for (const char c : text) {
      if (to != nullptr) to[size] = c;
      ++size;
    }
  };
  add("typing.Literal[");
  for (const auto& named : prunetime::Names<Enum>::values) {
    add(&named == std::begin(prunetime::Names<Enum>::values) ? "'" : ", '");
    add(named.first);
    add("'");
  }
  add("]");
  return size;
}

template <prunetime::Named Enum>
constexpr auto literal() {
  constexpr std::size_t kSize = write_literal<Enum>(nullptr);
  char text[kSize + 1] = {};
  write_literal<Enum>(text);
  return descr<kSize>(text);
}

// The caster of an enum that has Names: strings.
template <prunetime::Named Enum>
struct NamedCaster {
  NB_TYPE_CASTER(Enum, literal<Enum>())

  bool from_python(handle source, std::uint8_t, cleanup_list*) noexcept {
    if (!PyUnicode_Check(source.ptr())) return false;
    const char* given = PyUnicode_AsUTF8(source.ptr());
    if (given == nullptr) PyErr_Clear();
    for (const auto& [name, named] : prunetime::Names<Enum>::values) {
      if (given != nullptr && std::strcmp(given, name) == 0) {
        value = named;
        return true;
      }
    }
    return false;
  }

  static handle from_cpp(Enum given, rv_policy, cleanup_list*) noexcept {
    for (const auto& [name, named] : prunetime::Names<Enum>::values) {
      if (named == given) return PyUnicode_FromString(name);
    }
    return {};
  }
};

template <class T>
struct type_caster<prunetime::Given<T>> {
  NB_TYPE_CASTER(prunetime::Given<T>, make_caster<T>::Name)

  bool from_python(handle source, std::uint8_t, cleanup_list*) noexcept {
    value.source = source;
    value.is_valid = try_cast<T>(source, value.value, false);
    return true;
  }
};

}  // namespace nanobind::detail
