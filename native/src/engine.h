// The I/O engine of one thread: a ring for files, a wide ring for NVMe commands, threads for the rest; one packed batch in, one packed batch out.
#pragma once
#include <napi.h>

#include <memory>
#include <vector>

#include "loop-poll.h"
#include "pool.h"
#include "ring.h"

namespace nvmeferry {

class EngineCore;

/// JavaScript: new Engine({ depth, threads, mode }, pins, onComplete)
class Engine : public Napi::ObjectWrap<Engine> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit Engine(const Napi::CallbackInfo& info);
  ~Engine() override;

 private:
  friend class EngineCore;
  Napi::Value Submit(const Napi::CallbackInfo& info);
  Napi::Value RegisterFile(const Napi::CallbackInfo& info);
  Napi::Value RegisterBuffer(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);
  Napi::Value GetMode(const Napi::CallbackInfo& info);
  Napi::Value GetPassthrough(const Napi::CallbackInfo& info);
  Napi::Value GetRefusal(const Napi::CallbackInfo& info);
  Napi::Value GetSubmissions(const Napi::CallbackInfo& info);
  Napi::Value GetCompletions(const Napi::CallbackInfo& info);
  Napi::Value GetState(const Napi::CallbackInfo& info);

  EngineCore* core_ = nullptr;
};

/// What outlives the JavaScript object while operations are in flight.
class EngineCore : public LoopPoll {
 public:
  struct Options {
    uint32_t depth;
    uint32_t threads;
    bool wantsRing;
  };
  EngineCore(Napi::Env env, Engine* wrapper, const Options& options);
  /// @returns 0 or -errno
  int Open();
  using LoopPoll::Abandon;

  Engine* wrapper;
  Napi::Reference<Napi::Array> pins;
  Napi::FunctionReference onComplete;
  Napi::Reference<Napi::ArrayBuffer> submissionsRef;
  Napi::Reference<Napi::ArrayBuffer> completionsRef;
  Napi::Reference<Napi::ArrayBuffer> stateRef;

  /// False if a slot of the first `count` entries is in use or does not exist; takes the slots.
  bool Accepts(uint32_t count);
  /// @returns completions now in the completion area
  uint32_t Submit(uint32_t count, napi_value pinned);
  int RegisterFile(uint32_t index, int fd);
  int RegisterBuffer(uint32_t index, napi_value buffer);
  bool hasRing() const { return ring_ != nullptr; }
  bool hasWideRing();
  int refusal() const { return refusal_; }

 protected:
  ~EngineCore() override;
  void OnEvents(int status, int events) override;
  void OnClose() override;

 private:
  /// Looks up the memory of `job`. @returns 0 or -errno
  int Locate(Job& job, napi_value pinned);
  int Add(Job& job, napi_value view, uint64_t skip, uint64_t* left);
  void Start(Job& job);
  void Fail(const Job& job, int error);
  uint32_t Drain();
  void EnterRing(Ring& ring);
  void Count(int32_t change);

  const Options options_;
  int eventFd_ = -1;
  int refusal_ = 0;
  std::unique_ptr<Ring> ring_;
  std::unique_ptr<Ring> wide_;
  bool wideTried_ = false;
  std::unique_ptr<Pool> pool_;
  std::vector<Job> jobs_;
  std::vector<uint8_t> busy_;
  /// What completed before the kernel was asked: failed, or done by the caller.
  std::vector<Completion> atOnce_;
  bool filesRegistered_ = false;
  bool buffersRegistered_ = false;
  struct RegisteredBuffer {
    uint8_t* address = nullptr;
    size_t length = 0;
    bool inRing = false;
    Napi::Reference<Napi::ArrayBuffer> reference;
  };
  std::vector<RegisteredBuffer> buffers_;
  Entry* submissions_ = nullptr;
  Completion* completions_ = nullptr;
  int32_t* state_ = nullptr;
  uint32_t inFlight_ = 0;
  Napi::AsyncContext context_;
};

}  // namespace nvmeferry
