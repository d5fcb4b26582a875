// What the engine refuses. The binding turns it into ValueError.
#pragma once

#include <stdexcept>
#include <string>

namespace prunetime {

struct Error : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

}  // namespace prunetime
