// Runtime of the stand-in <cuda_runtime.h> beside this file. Never compile this file with
// -fsanitize=thread: its own bookkeeping is not the program under test.
// ON_TSAN / ON_ASAN tell it what the rest of the program is compiled with.
#include "cuda_runtime.h"

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#ifdef ON_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#ifdef ON_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_on_cpu {
namespace {

constexpr std::size_t kStackBytes = 256 << 10;
constexpr std::size_t kDefaultSharedBytes = 48 << 10;

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStackBytes);
  dim3 index;
  bool done = false;
  std::deque<std::vector<Copy>> groups;  // asynchronous copies under way; the last one is open
  Words words[2];
  unsigned exchanges = 0;
  void* tsan = nullptr;
  void* asan = nullptr;
};

struct Barrier {
  int arrived = 0;
  unsigned long generation = 0;
  int line = 0;
};

std::vector<Fiber> fibers;
int current, num_threads;
dim3 the_block_index, the_block_size, the_grid_size;
std::vector<Barrier> barriers;  // [0] of the block, [1 + w] of warp w
char* shared;
const std::function<void()>* kernel_body;
std::map<const void*, std::size_t> allowed_shared_bytes;
ucontext_t scheduler;
void* scheduler_tsan;
void* scheduler_asan;
const void* scheduler_stack;
std::size_t scheduler_stack_bytes;

void release(void* at) {
#ifdef ON_TSAN
  __tsan_release(at);
#endif
  (void)at;
}

void acquire(void* at) {
#ifdef ON_TSAN
  __tsan_acquire(at);
#endif
  (void)at;
}

void to_scheduler() {
  Fiber& fiber = fibers[current];
#ifdef ON_TSAN
  __tsan_switch_to_fiber(scheduler_tsan, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef ON_ASAN
  __sanitizer_start_switch_fiber(fiber.done ? nullptr : &fiber.asan, scheduler_stack,
                                 scheduler_stack_bytes);
#endif
  swapcontext(&fiber.context, &scheduler);
#ifdef ON_ASAN
  __sanitizer_finish_switch_fiber(fiber.asan, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

void to_fiber(int thread) {
  current = thread;
  Fiber& fiber = fibers[thread];
#ifdef ON_TSAN
  __tsan_switch_to_fiber(fiber.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef ON_ASAN
  __sanitizer_start_switch_fiber(&scheduler_asan, fiber.stack.data(), fiber.stack.size());
#endif
  swapcontext(&scheduler, &fiber.context);
#ifdef ON_ASAN
  __sanitizer_finish_switch_fiber(scheduler_asan, nullptr, nullptr);
#endif
}

void run_thread() {
#ifdef ON_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
  acquire(&fibers);
  (*kernel_body)();
  release(&fibers);
  Fiber& fiber = fibers[current];
  for (const auto& group : fiber.groups)
    if (!group.empty()) fail("the thread ends with asynchronous copies it never waited for", 0);
  fiber.done = true;
  to_scheduler();
}

void arrive(int barrier, int wanted, int line, bool orders_memory) {
  Barrier& b = barriers[barrier];
  if (b.arrived == 0) b.line = line;
  if (b.line != line) fail("threads wait at different barriers", line);
  if (orders_memory) release(&b);
  const unsigned long generation = b.generation;
  if (++b.arrived == wanted) {
    b.arrived = 0;
    ++b.generation;
  }
  while (b.generation == generation) to_scheduler();
  if (orders_memory) acquire(&b);
}

unsigned long progress() {
  unsigned long sum = 0;
  for (const Barrier& b : barriers) sum += b.generation;
  for (const Fiber& f : fibers) sum += f.done;
  return sum;
}

void run_block(std::size_t shared_bytes, std::mt19937& random) {
  shared = static_cast<char*>(std::malloc(shared_bytes));
  std::memset(shared, 0xff, shared_bytes);  // NaN as float, bfloat16 and double
  barriers.assign(1 + num_threads / 32, Barrier());
  for (int i = 0; i < num_threads; ++i) {
    Fiber& fiber = fibers[i];
    fiber.done = false;
    fiber.index = dim3(i);
    fiber.exchanges = 0;
    fiber.groups.assign(1, {});
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_thread, 0);
  }
  release(&fibers);
  std::vector<int> order(num_threads);
  std::iota(order.begin(), order.end(), 0);
  if (schedule == 1) std::reverse(order.begin(), order.end());
  for (bool live = true; live;) {
    if (schedule > 1) std::shuffle(order.begin(), order.end(), random);
    const unsigned long before = progress();
    live = false;
    for (int i : order) {
      if (!fibers[i].done) to_fiber(i);
      live = live || !fibers[i].done;
    }
    if (live && progress() == before) {
      for (const Barrier& b : barriers)
        if (b.arrived) fail("deadlock: not every thread reaches this barrier", b.line);
    }
  }
  acquire(&fibers);
  std::free(shared);
}

}  // namespace

const dim3& thread_index() { return fibers[current].index; }
const dim3& block_index() { return the_block_index; }
const dim3& block_size() { return the_block_size; }
const dim3& grid_size() { return the_grid_size; }
void* shared_memory() { return shared; }
void sync_threads(int line) { arrive(0, num_threads, line, true); }
void sync_warp(int line) { arrive(1 + current / 32, 32, line, true); }

std::array<Words, 32> exchange(const Words& mine, int line) {
  // Two slots in turn: a lane is at most one exchange ahead of another.
  const int first = current / 32 * 32, slot = fibers[current].exchanges++ % 2;
  fibers[current].words[slot] = mine;
  arrive(1 + current / 32, 32, line, false);
  std::array<Words, 32> all;
  for (int i = 0; i < 32; ++i) all[i] = fibers[first + i].words[slot];
  return all;
}

std::vector<Copy>& open_copies() { return fibers[current].groups.back(); }
void commit_copies() { fibers[current].groups.emplace_back(); }

std::vector<Copy> due_copies(int groups_left) {
  auto& groups = fibers[current].groups;  // the last one is not committed
  std::vector<Copy> due;
  for (; static_cast<int>(groups.size()) > groups_left + 1; groups.pop_front())
    due.insert(due.end(), groups.front().begin(), groups.front().end());
  return due;
}

void fail(const char* what, int line) {
  std::fprintf(stderr, "cuda_on_cpu: %s (line %d, block %u %u %u, thread %d)\n", what, line,
               the_block_index.x, the_block_index.y, the_block_index.z, current);
  std::abort();
}

void allow_shared_bytes(const void* kernel, std::size_t bytes) {
  allowed_shared_bytes[kernel] = bytes;
}

int launch(const void* kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
           const std::function<void()>& body) {
  constexpr int kInvalidValue = 1;
  const std::size_t allowed = std::max(kDefaultSharedBytes, allowed_shared_bytes[kernel]);
  if (grid.x * grid.y * grid.z == 0 || grid.y > 65535 || grid.z > 65535 || block.x % 32 ||
      block.x > 1024 || block.y * block.z != 1 || shared_bytes > allowed)
    return kInvalidValue;
  num_threads = static_cast<int>(block.x);
  the_grid_size = grid;
  the_block_size = block;
  kernel_body = &body;
  fibers.resize(num_threads);
#ifdef ON_TSAN
  scheduler_tsan = __tsan_get_current_fiber();
  for (Fiber& fiber : fibers) fiber.tsan = __tsan_create_fiber(0);
#endif
  std::mt19937 random(schedule);
  std::vector<unsigned> blocks(grid.x * grid.y * grid.z);
  std::iota(blocks.begin(), blocks.end(), 0u);
  if (schedule == 1) std::reverse(blocks.begin(), blocks.end());
  if (schedule > 1) std::shuffle(blocks.begin(), blocks.end(), random);
  for (unsigned i : blocks) {
    the_block_index = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
    run_block(shared_bytes, random);
  }
#ifdef ON_TSAN
  for (Fiber& fiber : fibers) __tsan_destroy_fiber(fiber.tsan);
#endif
  return cudaSuccess;
}

}  // namespace cuda_on_cpu
