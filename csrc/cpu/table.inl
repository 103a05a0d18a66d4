// All kernels of one instruction set, in a table.
#pragma once

#include "attention.inl"
#include "graph_attention.inl"
#include "linear.inl"
#include "node_update.inl"
#include "softmax_loss.inl"

static constexpr Kernels kTable = {
    EMOREC_NAME,
    scratch_bytes,
    forward,
    backward,
    softmax_sizes,
    softmax_pack,
    softmax_states,
    softmax_items,
    graph_sizes,
    graph_pack,
    graph_targets,
    graph_pack_gradient,
    graph_sources,
    update_sizes,
    update_pack,
    update_forward,
    update_backward,
    norm_linear_sizes,
    norm_linear_pack,
    norm_linear_forward,
    norm_linear_backward,
    add_linear_sizes,
    add_linear_pack,
    add_linear_forward,
    add_linear_backward,
};
