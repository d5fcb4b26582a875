// How fast a table of kernels can be on this machine.
#pragma once

#include <nanobind/nanobind.h>

namespace prunetime {

void bind_peaks(nanobind::module_& module);

}  // namespace prunetime
