// A fixed number of threads that do one piece of work together; the calling thread is worker 0.
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace prunetime {

// Nobody leaves before everybody has arrived. Waits asleep, or by spinning a while first.
class Barrier {
 public:
  Barrier(int size, bool spins) : size_(static_cast<std::uint32_t>(size)), spins_(spins) {}
  void arrive_and_wait();

 private:
  const std::uint32_t size_;
  const bool spins_;
  alignas(64) std::atomic<std::uint32_t> arrived_{0};
  alignas(64) std::atomic<std::uint32_t> phase_{0};
};

// The workers that share one piece of work, seen from one of them.
class Team {
 public:
  Team() = default;  // a worker on its own
  Team(int index, int size, Barrier* barrier) : index_(index), size_(size), barrier_(barrier) {}

  struct Share {
    int first, end;
  };
  // This worker's part of `count` items.
  Share share(int count) const {
    const auto cut = [&](int i) { return static_cast<int>(static_cast<std::int64_t>(count) * i / size_); };
    return {cut(index_), cut(index_ + 1)};
  }
  // Everything the team did before is visible to all of it afterwards.
  void sync() const {
    if (size_ > 1) barrier_->arrive_and_wait();
  }
  int index() const { return index_; }

 private:
  int index_ = 0;
  int size_ = 1;
  Barrier* barrier_ = nullptr;
};

class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Calls work(team) on every worker and returns when all are done. `work` must not throw. One call at a time.
  // Throws Error in a process that was forked after the pool was made: its threads are not there.
  template <class Work>
  void run(const Work& work) {
    run_on_all([](const void* context, const Team& team) { (*static_cast<const Work*>(context))(team); }, &work);
  }

 private:
  using Function = void (*)(const void* context, const Team& team);
  void run_on_all(Function function, const void* context);
  void work_until_stopped(int index);
  void stop();

  const int size_;
  const bool spins_;  // where every worker has a core: elsewhere it would keep the one it waits for from running
  const pid_t process_;
  Barrier barrier_;
  Function function_ = nullptr;
  const void* context_ = nullptr;
  std::atomic<bool> stopping_{false};
  alignas(64) std::atomic<std::uint32_t> job_{0};
  std::vector<std::thread> threads_;
};

}  // namespace prunetime
