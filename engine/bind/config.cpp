#include "bind/config.h"

#include <nanobind/stl/map.h>
#include <nanobind/stl/vector.h>

#include "bind/names.h"
#include "bind/settings.h"
#include "encoder/config.h"

namespace prunetime {

void bind_config(nanobind::module_& m) {
  bind_settings(m, "HeadLayerConfig", "config", "A layer of the head.",
                Field{"name", &HeadLayerConfig::name},
                Field{"kind", &HeadLayerConfig::kind},
                Field{"width", &HeadLayerConfig::width},
                Field{"activation", &HeadLayerConfig::activation},
                Field{"eps", &HeadLayerConfig::eps});
  bind_settings(m, "ForwardConfig", "config", "All that the forward pass needs besides the weights and their plan.",
                Field{"layers", &ForwardConfig::layers},
                Field{"embedding", &ForwardConfig::embedding},
                Field{"hidden", &ForwardConfig::hidden},
                Field{"heads", &ForwardConfig::heads},
                Field{"head_dim", &ForwardConfig::head_dim},
                Field{"ffn", &ForwardConfig::ffn},
                Field{"vocabulary", &ForwardConfig::vocabulary},
                Field{"positions", &ForwardConfig::positions},
                Field{"position_offset", &ForwardConfig::position_offset},
                Field{"token_types", &ForwardConfig::token_types},
                Field{"outputs", &ForwardConfig::outputs},
                Field{"layer_norm_eps", &ForwardConfig::layer_norm_eps},
                Field{"relative_positions", &ForwardConfig::relative_positions},
                Field{"rotary_theta", &ForwardConfig::rotary_theta},
                Field{"rotary_window", &ForwardConfig::rotary_window},
                Field{"pre_norm", &ForwardConfig::pre_norm},
                Field{"gated", &ForwardConfig::gated},
                Field{"rows", &ForwardConfig::rows},
                Field{"head", &ForwardConfig::head},
                Field{"normalize", &ForwardConfig::normalize},
                Field{"separator", &ForwardConfig::separator});
  bind_settings(m, "ForwardPlan", "plan", "How the weights are run.",
                Field{"precision", &ForwardPlan::precision},
                Field{"dense", &ForwardPlan::dense},
                Field{"tokens", &ForwardPlan::tokens});
}

}  // namespace prunetime
