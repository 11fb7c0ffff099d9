// A few threads that perform operations by blocking system calls: for kernels that refuse io_uring, and for what a ring cannot do.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "operation.h"

namespace nvmeferry {

class Pool {
 public:
  /// @param eventFd written when something completes
  Pool(uint32_t threads, int eventFd) : threadMax_(threads), eventFd_(eventFd) {}
  ~Pool() { Drain(); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  /// `job` stays where it is until it is reaped. @returns 0, or -EAGAIN if the system gives no thread at all
  int Queue(Job* job);
  uint32_t Reap(Completion* out, uint32_t max);
  /// Forgets what has not begun, waits for what has, ends the threads.
  void Drain();

 private:
  static void* Enter(void* pool);
  void Run();

  const uint32_t threadMax_;
  const int eventFd_;
  std::mutex mutex_;
  std::condition_variable more_;
  std::deque<Job*> waiting_;
  std::deque<Completion> done_;
  std::vector<pthread_t> threads_;
  uint32_t idle_ = 0;
  bool stopping_ = false;
};

}  // namespace nvmeferry
