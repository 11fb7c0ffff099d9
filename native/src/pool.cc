#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>

namespace nvmeferry {

void* Pool::Enter(void* pool) {
  static_cast<Pool*>(pool)->Run();
  return nullptr;
}

int Pool::Queue(Job* job) {
  std::lock_guard<std::mutex> lock(mutex_);
  waiting_.push_back(job);
  if (idle_ < waiting_.size() && threads_.size() < threadMax_) {
    // pthread_create: std::thread would throw. Signals stay with the threads of Node.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    const int error = pthread_create(&thread, nullptr, Enter, this);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (error == 0) {
      threads_.push_back(thread);
    } else if (threads_.empty()) {
      waiting_.pop_back();
      return -EAGAIN;
    }
  }
  more_.notify_one();
  return 0;
}

void Pool::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    idle_++;
    more_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    idle_--;
    if (stopping_) return;
    Job* job = waiting_.front();
    waiting_.pop_front();
    lock.unlock();
    Perform(*job);
    lock.lock();
    const bool first = done_.empty();
    done_.push_back(job->completion);
    if (!first) continue;  // the loop is being woken already
    const uint64_t one = 1;
    while (write(eventFd_, &one, sizeof one) < 0 && errno == EINTR) {
    }
  }
}

uint32_t Pool::Reap(Completion* out, uint32_t max) {
  std::lock_guard<std::mutex> lock(mutex_);
  uint32_t count = 0;
  for (; count < max && !done_.empty(); count++) {
    out[count] = done_.front();
    done_.pop_front();
  }
  return count;
}

void Pool::Drain() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    waiting_.clear();
  }
  more_.notify_all();
  for (const pthread_t thread : threads_) pthread_join(thread, nullptr);
  threads_.clear();
}

}  // namespace nvmeferry
