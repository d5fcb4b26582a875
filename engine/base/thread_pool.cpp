#include "base/thread_pool.h"

#include <sched.h>
#include <unistd.h>

#include <chrono>
#include <limits>

#include "base/cpu.h"
#include "base/error.h"

namespace prunetime {
namespace {

constexpr std::chrono::microseconds kSpin{100};

// On which this thread may run.
int usable_cores() {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) != 0) return std::numeric_limits<int>::max();  // more than fit the set
  return CPU_COUNT(&cores);
}

// Returns when `value` is no longer `old`: spins for a bounded time, as a phase is microseconds long, then sleeps.
void wait_for_change(const std::atomic<std::uint32_t>& value, std::uint32_t old, bool spins) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  while (spins && std::chrono::steady_clock::now() < deadline) {
    for (int i = 0; i < 32; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      spin_pause();
    }
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

void Barrier::arrive_and_wait() {
  const std::uint32_t phase = phase_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    phase_.notify_all();
  } else {
    wait_for_change(phase_, phase, spins_);
  }
}

ThreadPool::ThreadPool(int threads)
    : size_(threads), spins_(threads <= usable_cores()), process_(getpid()), barrier_(threads, spins_) {
  try {
    for (int index = 1; index < size_; ++index) {
      threads_.emplace_back([this, index] { work_until_stopped(index); });
    }
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  if (getpid() != process_) {
    for (auto& thread : threads_) thread.detach();  // forked: there is nothing to wait for
  } else {
    stop();
  }
}

void ThreadPool::stop() {
  stopping_.store(true, std::memory_order_relaxed);
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void ThreadPool::run_on_all(Function function, const void* context) {
  if (size_ > 1) {
    if (getpid() != process_) throw Error("this engine was made before a fork: make one in the child process");
    function_ = function;
    context_ = context;
    job_.fetch_add(1, std::memory_order_release);
    job_.notify_all();
  }
  const FlushDenormals flush;
  const Team team(0, size_, &barrier_);
  function(context, team);
  team.sync();
}

void ThreadPool::work_until_stopped(int index) {
  const FlushDenormals flush;
  for (std::uint32_t done = 0;; ++done) {
    wait_for_change(job_, done, spins_);
    if (stopping_.load(std::memory_order_relaxed)) return;
    const Team team(index, size_, &barrier_);
    function_(context_, team);
    team.sync();
  }
}

}  // namespace prunetime
