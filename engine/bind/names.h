// What Python calls the values of enums.
#pragma once

#include "bind/settings.h"
#include "encoder/config.h"

namespace prunetime {

template <>
struct Names<Precision> {
  static constexpr std::pair<const char*, Precision> values[] = {
      {"fp32", Precision::fp32}, {"bf16", Precision::bf16}, {"int8", Precision::int8}};
};

template <>
struct Names<Activation> {
  static constexpr std::pair<const char*, Activation> values[] = {{"identity", Activation::identity},
                                                                  {"tanh", Activation::tanh},
                                                                  {"relu", Activation::relu},
                                                                  {"gelu", Activation::gelu}};
};

template <>
struct Names<HeadLayerKind> {
  static constexpr std::pair<const char*, HeadLayerKind> values[] = {{"dense", HeadLayerKind::dense},
                                                                     {"norm", HeadLayerKind::norm}};
};

template <>
struct Names<Rows> {
  static constexpr std::pair<const char*, Rows> values[] = {
      {"first", Rows::first}, {"lasttoken", Rows::last}, {"mean", Rows::mean},
      {"max", Rows::max},     {"mean_sqrt_len", Rows::mean_sqrt_len}, {"weightedmean", Rows::weighted_mean},
      {"all", Rows::all}};
};

}  // namespace prunetime

namespace nanobind::detail {

template <>
struct type_caster<prunetime::Precision> : NamedCaster<prunetime::Precision> {};
template <>
struct type_caster<prunetime::Activation> : NamedCaster<prunetime::Activation> {};
template <>
struct type_caster<prunetime::HeadLayerKind> : NamedCaster<prunetime::HeadLayerKind> {};
template <>
struct type_caster<prunetime::Rows> : NamedCaster<prunetime::Rows> {};

}  // namespace nanobind::detail
