// The border between the host code of the CPU and its kernels, which are compiled once for every
// instruction set. Kernels use neither torch nor the standard library: see baseline.cpp for why.
#pragma once

#include "../graph_attention.h"
#include "../hawkes_attention.h"
#include "../linear.h"
#include "../node_update.h"
#include "../softmax_loss.h"

namespace emorec {

// What one call of an attention kernel works on. The forward takes any rows of a sequence, the
// backward whole sequences.
struct Task {
  int64_t sequence;
  int64_t first_row;  // within the sequence
  int64_t last_row;   // exclusive
};

// Some states or items of a loss, some nodes of a graph, or some rows.
struct Range {
  int64_t first;
  int64_t last;  // exclusive
};

// Memory that a loss needs, and how much of it is one task.
struct SoftmaxSizes {
  int64_t shared_bytes;
  int64_t scratch_bytes;
  int64_t states;
  int64_t items;
};

// Memory that attention over a graph needs.
struct GraphSizes {
  int64_t shared_bytes;
  int64_t scratch_bytes;
};

// Memory that an update of nodes needs.
struct NodeUpdateSizes {
  int64_t shared_bytes;
  int64_t scratch_bytes;
  int64_t sums;   // numbers that a task of the backward sums up: dW, dU, db, dgain, dshift
  int64_t nodes;  // of a tile
};

// Memory that a linear map needs.
struct LinearSizes {
  int64_t shared_bytes;
  int64_t scratch_bytes;
  int64_t sums;  // numbers that a task of the backward sums up: dW, db, dgain and dshift
  int64_t rows;  // of a tile
};

// The kernels of one instruction set. Scratch and shared memory are aligned to 64 bytes; what they
// hold at first does not matter.
struct Kernels {
  const char* name;

  // The attention: scratch is of scratch_bytes(params, n, backward) for sequences of up to n
  // tokens. far_field allows sums over distant keys in closed form.
  int64_t (*scratch_bytes)(const HawkesForwardParams&, int64_t length, bool backward);
  void (*forward)(const HawkesForwardParams&, Task, char* scratch, bool far_field);
  void (*backward)(const HawkesBackwardParams&, Task, char* scratch, bool far_field);

  // The loss: the items are packed once; then come, for each chunk of states, all tasks of its
  // states and after them all tasks of the items.
  SoftmaxSizes (*softmax_sizes)(const SoftmaxLossParams&);
  void (*softmax_pack)(const SoftmaxLossParams&, char* shared);
  void (*softmax_states)(const SoftmaxLossParams&, Range chunk, Range states, char* shared,
                         char* scratch);
  void (*softmax_items)(const SoftmaxLossParams&, Range chunk, Range items, char* shared,
                        char* scratch);

  // Attention over a graph: the rows that are gathered are packed once; then come, in the forward,
  // all targets, and in the backward all sources.
  GraphSizes (*graph_sizes)(const GraphAttentionParams&, bool backward);
  void (*graph_pack)(const GraphAttentionParams&, char* shared);
  void (*graph_targets)(const GraphAttentionForwardParams&, Range targets, char* shared,
                        char* scratch);
  void (*graph_pack_gradient)(const GraphAttentionBackwardParams&, char* shared);
  void (*graph_sources)(const GraphAttentionBackwardParams&, Range sources, char* shared,
                        char* scratch);

  // Update of nodes: the forward's weights are packed once; a task's nodes are of one kind.
  NodeUpdateSizes (*update_sizes)(const NodeUpdateParams&);
  void (*update_pack)(const NodeUpdateParams&, char* shared);
  void (*update_forward)(const NodeUpdateForwardParams&, int64_t kind, Range nodes, char* shared,
                         char* scratch);
  void (*update_backward)(const NodeUpdateBackwardParams&, int64_t kind, Range nodes, void* sums,
                          char* scratch);

  // Linear maps after a layer norm, and before a residual: the forward's weight is packed once.
  LinearSizes (*norm_linear_sizes)(const NormLinearParams&);
  void (*norm_linear_pack)(const NormLinearParams&, char* shared);
  void (*norm_linear_forward)(const NormLinearParams&, Range rows, char* shared, char* scratch);
  void (*norm_linear_backward)(const NormLinearBackwardParams&, Range rows, void* sums,
                               char* scratch);
  LinearSizes (*add_linear_sizes)(const AddLinearParams&);
  void (*add_linear_pack)(const AddLinearParams&, char* shared);
  void (*add_linear_forward)(const AddLinearForwardParams&, Range rows, char* shared,
                             char* scratch);
  void (*add_linear_backward)(const AddLinearBackwardParams&, Range rows, void* sums,
                              char* scratch);
};

extern const Kernels kBaselineKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

}  // namespace emorec
