// Entry points to single kernels of one table, so that each can be tested and timed on its own.
#pragma once

#include <nanobind/nanobind.h>

namespace prunetime {

void bind_testing(nanobind::module_& module);

}  // namespace prunetime
