// Schemas of the operators. Loading the library registers them; Python adds shapes and autograd.
#include <torch/csrc/stable/library.h>

#define EMOREC_HAWKES_INPUTS                                                                  \
  "Tensor query, Tensor? key, Tensor value, Tensor time, Tensor position, Tensor cu_seqlens, " \
  "Tensor decay_rate, Tensor inverse_window, Tensor? seed"
#define EMOREC_HAWKES_OPTIONS \
  "float scale, float dropout, bool additive, bool causal, bool mask_self, bool sum_heads"
#define EMOREC_UPDATE_INPUTS                                               \
  "Tensor others, Tensor others_weight, Tensor? own, Tensor? own_weight, " \
  "Tensor? index, Tensor? scale, Tensor gain, Tensor kind_offsets"
#define EMOREC_NORM_LINEAR_INPUTS                                                      \
  "Tensor x, Tensor gain, Tensor shift, Tensor weight, Tensor bias, Tensor? bytes, " \
  "int threshold, float epsilon, int activation, int first_activated"

STABLE_TORCH_LIBRARY(emorec, m) {
  m.def("hawkes_attention_fwd(" EMOREC_HAWKES_INPUTS ", " EMOREC_HAWKES_OPTIONS
        ") -> (Tensor output, Tensor log_sum)");
  m.def("hawkes_attention_bwd(Tensor grad_output, Tensor log_sum, " EMOREC_HAWKES_INPUTS
        ", " EMOREC_HAWKES_OPTIONS
        ") -> (Tensor grad_query, Tensor grad_key, Tensor grad_value, Tensor grad_decay_rate)");
  m.def("softmax_loss(Tensor state, Tensor items, Tensor target, Tensor wanted)"
        " -> (Tensor loss, Tensor grad_state, Tensor grad_items)");
  m.def("graph_attention_fwd(Tensor x, Tensor left, Tensor right, Tensor offsets, Tensor source, "
        "Tensor source_offsets, Tensor target, float slope)"
        " -> (Tensor output, Tensor above, Tensor totals)");
  m.def("graph_attention_bwd(Tensor grad_output, Tensor x, Tensor left, Tensor right, "
        "Tensor source_offsets, Tensor target, Tensor output, Tensor above, Tensor totals, "
        "float slope) -> (Tensor grad_x, Tensor grad_left, Tensor grad_right)");
  m.def("node_update_fwd(" EMOREC_UPDATE_INPUTS
        ", Tensor? bias, Tensor shift, float epsilon, bool elu)"
        " -> (Tensor output, Tensor activated, Tensor statistics)");
  m.def("node_update_bwd(Tensor grad_output, " EMOREC_UPDATE_INPUTS
        ", Tensor activated, Tensor statistics, bool elu)"
        " -> (Tensor grad_others, Tensor grad_others_weight, Tensor grad_own, Tensor grad_own_weight, "
        "Tensor grad_bias, Tensor grad_gain, Tensor grad_shift)");
  m.def("norm_linear_fwd(" EMOREC_NORM_LINEAR_INPUTS ") -> Tensor");
  m.def("norm_linear_bwd(Tensor grad_output, Tensor output, " EMOREC_NORM_LINEAR_INPUTS
        ") -> (Tensor grad_x, Tensor grad_gain, Tensor grad_shift, Tensor grad_weight, "
        "Tensor grad_bias)");
  m.def("add_linear_fwd(Tensor x, Tensor h, Tensor weight, Tensor bias, Tensor? bytes, "
        "int threshold) -> Tensor");
  m.def("add_linear_bwd(Tensor grad_output, Tensor h, Tensor weight, Tensor? bytes, "
        "int threshold) -> (Tensor grad_h, Tensor grad_weight, Tensor grad_bias)");
  m.def("instruction_set() -> str");
}
