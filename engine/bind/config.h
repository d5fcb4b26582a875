// What an encoder is made of besides its weights, as classes of Python.
#pragma once

#include <nanobind/nanobind.h>

namespace prunetime {

void bind_config(nanobind::module_& module);

}  // namespace prunetime
