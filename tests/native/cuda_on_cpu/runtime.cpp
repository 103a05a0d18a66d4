// Runtime of the stand-in <cuda_runtime.h> beside this file. Compile it without -fsanitize=thread,
// as its own bookkeeping is not under test, and with ON_TSAN or ON_ASAN if the kernels are.
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <numeric>
#include <random>

#include "cuda_runtime.h"
#ifdef ON_TSAN
#include <sanitizer/tsan_interface.h>
#else
#define __tsan_acquire(address) ((void)(address))
#define __tsan_release(address) ((void)(address))
#endif
#ifdef ON_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_on_cpu {
namespace {

struct Context {
  ucontext_t registers;
  void* tsan_fiber = nullptr;
  void* asan_stack = nullptr;
  const void* stack_bottom = nullptr;
  std::size_t stack_bytes = 0;
};

struct Fiber : Context {
  std::vector<char> stack = std::vector<char>(256 << 10);
  dim3 index;
  bool done;
  std::deque<std::vector<Copy>> groups;  // asynchronous copies under way; the last one is open
  Words words[2];
  unsigned exchanges;
};

struct Barrier {
  int arrived = 0, line = 0;
  unsigned long generation = 0;
  char order[2];  // for ThreadSanitizer, in turn: a thread that wakes late must not seem to come
                  // after what others did since, up to where they arrived again
};

Context scheduler;
std::vector<Fiber> fibers;
int current;
std::vector<Barrier> barriers;  // [0] of the block, [1 + w] of warp w
dim3 block;
void* shared;
const std::function<void()>* kernel_body;
std::map<const void*, std::size_t> allowed_shared_bytes;

void switch_to(Context& from, Context& to, bool for_good = false) {
#ifdef ON_TSAN
  __tsan_switch_to_fiber(to.tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef ON_ASAN
  __sanitizer_start_switch_fiber(for_good ? nullptr : &from.asan_stack, to.stack_bottom,
                                 to.stack_bytes);
#endif
  (void)for_good;
  swapcontext(&from.registers, &to.registers);
#ifdef ON_ASAN
  __sanitizer_finish_switch_fiber(from.asan_stack, nullptr, nullptr);
#endif
}

void run_thread() {
#ifdef ON_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack_bottom, &scheduler.stack_bytes);
#endif
  __tsan_acquire(&fibers);
  (*kernel_body)();
  __tsan_release(&fibers);
  Fiber& fiber = fibers[current];
  for (const auto& group : fiber.groups)
    if (!group.empty()) fail("the thread ends with copies that it never waited for", __LINE__);
  fiber.done = true;
  switch_to(fiber, scheduler, true);
}

void arrive(int barrier, std::size_t wanted, int line, bool orders_memory) {
  Barrier& b = barriers[barrier];
  if (b.arrived == 0) b.line = line;
  if (b.line != line) fail("threads wait at different barriers", line);
  const unsigned long generation = b.generation;
  if (orders_memory) __tsan_release(&b.order[generation % 2]);
  if (++b.arrived == static_cast<int>(wanted)) {
    b.arrived = 0;
    ++b.generation;
  }
  while (b.generation == generation) switch_to(fibers[current], scheduler);
  if (orders_memory) __tsan_acquire(&b.order[generation % 2]);
}

unsigned long progress() {
  unsigned long sum = 0;
  for (const Barrier& b : barriers) sum += b.generation;
  for (const Fiber& f : fibers) sum += f.done;
  return sum;
}

void run_block(std::size_t shared_bytes, std::mt19937& random) {
  shared = std::malloc(shared_bytes);
  std::memset(shared, 0xff, shared_bytes);  // NaN as float, bfloat16 and double
  barriers.assign(1 + fibers.size() / 32, Barrier());
  for (std::size_t i = 0; i < fibers.size(); ++i) {
    Fiber& fiber = fibers[i];
    fiber.index = dim3(static_cast<unsigned>(i));
    fiber.done = false;
    fiber.groups.assign(1, {});
    fiber.exchanges = 0;
    getcontext(&fiber.registers);
    fiber.stack_bottom = fiber.registers.uc_stack.ss_sp = fiber.stack.data();
    fiber.stack_bytes = fiber.registers.uc_stack.ss_size = fiber.stack.size();
    makecontext(&fiber.registers, run_thread, 0);
  }
  __tsan_release(&fibers);
  std::vector<int> order(fibers.size());
  std::iota(order.begin(), order.end(), 0);
  if (schedule == 1) std::reverse(order.begin(), order.end());
  for (bool live = true; live;) {
    if (schedule > 1) std::shuffle(order.begin(), order.end(), random);
    const unsigned long before = progress();
    live = false;
    for (int i : order) {
      current = i;
      if (!fibers[i].done) switch_to(scheduler, fibers[i]);
      live = live || !fibers[i].done;
    }
    for (const Barrier& b : barriers)
      if (live && progress() == before && b.arrived)
        fail("deadlock: some threads never reach this barrier", b.line);
  }
  __tsan_acquire(&fibers);
  std::free(shared);
}

}  // namespace

const dim3& thread_index() { return fibers[current].index; }
const dim3& block_index() { return block; }
void* shared_memory() { return shared; }
void sync_threads(int line) { arrive(0, fibers.size(), line, true); }
void sync_warp(int line) { arrive(1 + current / 32, 32, line, true); }

std::array<Words, 32> exchange(const Words& mine, int line) {
  // Two slots in turn, as a lane is at most one exchange ahead of another.
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
  auto& groups = fibers[current].groups;
  std::vector<Copy> due;
  for (; static_cast<int>(groups.size()) > groups_left + 1; groups.pop_front())
    due.insert(due.end(), groups.front().begin(), groups.front().end());
  return due;
}

void fail(const char* what, int line) {
  std::fprintf(stderr, "cuda_on_cpu: %s (line %d, block %u %u %u, thread %d)\n", what, line,
               block.x, block.y, block.z, current);
  std::abort();
}

void allow_shared_bytes(const void* kernel, std::size_t bytes) {
  allowed_shared_bytes[kernel] = bytes;
}

int launch(const void* kernel, dim3 grid, dim3 threads, std::size_t shared_bytes,
           const std::function<void()>& body) {
  const std::size_t allowed = std::max<std::size_t>(48 << 10, allowed_shared_bytes[kernel]);
  if (grid.x * grid.y * grid.z == 0 || grid.y > 65535 || grid.z > 65535 || threads.x % 32 ||
      threads.x > 1024 || threads.y * threads.z != 1 || shared_bytes > allowed)
    return 1;  // cudaErrorInvalidValue
  kernel_body = &body;
  fibers.resize(threads.x);
#ifdef ON_TSAN
  scheduler.tsan_fiber = __tsan_get_current_fiber();
  for (Fiber& fiber : fibers) fiber.tsan_fiber = __tsan_create_fiber(0);
#endif
  std::mt19937 random(schedule);
  std::vector<unsigned> order(grid.x * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0u);
  if (schedule == 1) std::reverse(order.begin(), order.end());
  if (schedule > 1) std::shuffle(order.begin(), order.end(), random);
  for (unsigned i : order) {
    block = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
    run_block(shared_bytes, random);
  }
#ifdef ON_TSAN
  for (Fiber& fiber : fibers) __tsan_destroy_fiber(fiber.tsan_fiber);
#endif
  return cudaSuccess;
}

}  // namespace cuda_on_cpu
