#include "engine.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace nvmeferry {
namespace {

constexpr uint32_t kDepthMax = 16384;
constexpr uint32_t kThreadsMax = 64;
constexpr uint32_t kFiles = 256;
constexpr uint32_t kBuffers = 256;
constexpr uint32_t kIovMax = 1024;

/// Words of the state area: what JavaScript may read at any time.
enum State { kUnsubmitted = 0, kInFlight = 1, kEnters = 2, kWakeUps = 3, kPoolJobs = 4, kInlineJobs = 5, kStateWords = 8 };

}  // namespace

// ---- core ----------------------------------------------------------------------------------------------------------------------------

EngineCore::EngineCore(Napi::Env env, Engine* owner, const Options& options)
    : LoopPoll(env), wrapper(owner), options_(options), context_(env, "nvmeferry:engine") {
  Napi::ArrayBuffer area = Napi::ArrayBuffer::New(env, options.depth * sizeof(Entry));
  submissions_ = static_cast<Entry*>(area.Data());
  submissionsRef = Napi::Persistent(area);
  area = Napi::ArrayBuffer::New(env, options.depth * sizeof(Completion));
  completions_ = static_cast<Completion*>(area.Data());
  completionsRef = Napi::Persistent(area);
  area = Napi::ArrayBuffer::New(env, kStateWords * sizeof(int32_t));
  state_ = static_cast<int32_t*>(area.Data());
  stateRef = Napi::Persistent(area);
  jobs_.resize(options.depth);
  busy_.resize(options.depth);
  atOnce_.reserve(options.depth);
  buffers_.resize(kBuffers);
}

int EngineCore::Open() {
  eventFd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (eventFd_ < 0) return -errno;
  if (options_.wantsRing) {
    int error = 0;
    ring_ = Ring::Make(options_.depth, false, eventFd_, &error);
    refusal_ = error;
    if (ring_ != nullptr && ring_->entries() < options_.depth) ring_.reset(), refusal_ = ENOMEM;
    if (ring_ != nullptr) {
      filesRegistered_ = ring_->RegisterFiles(kFiles) == 0;
      buffersRegistered_ = ring_->RegisterBuffers(kBuffers) == 0;
    }
  }
  pool_ = std::make_unique<Pool>(options_.threads, eventFd_);
  const int error = LoopPoll::Open(eventFd_);
  return error != 0 ? error : LoopPoll::Start(UV_READABLE);
}

EngineCore::~EngineCore() {
  if (eventFd_ >= 0) close(eventFd_);
}

bool EngineCore::hasWideRing() {
  if (!wideTried_ && ring_ != nullptr) {
    wideTried_ = true;
    int error = 0;
    wide_ = Ring::Make(options_.depth, true, eventFd_, &error);
    if (wide_ != nullptr && (wide_->entries() < options_.depth || !wide_->supports(Op::NvmeIo))) wide_.reset();
  }
  return wide_ != nullptr;
}

int EngineCore::Add(Job& job, napi_value view, uint64_t skip, uint64_t* left) {
  void* data = nullptr;
  size_t length = 0;
  napi_typedarray_type type;
  if (napi_get_typedarray_info(env_, view, &type, &length, &data, nullptr, nullptr) != napi_ok) return -EINVAL;
  if (type != napi_uint8_array) return -EINVAL;
  if (skip > length) return -EINVAL;
  const size_t piece = static_cast<size_t>(std::min<uint64_t>(length - skip, *left));
  if (piece == 0) return 0;
  job.iov.push_back({static_cast<uint8_t*>(data) + skip, piece});
  *left -= piece;
  return 0;
}

int EngineCore::Locate(Job& job, napi_value pinned) {
  const Entry& e = job.entry;
  job.iov.clear();
  job.metadata = nullptr;
  uint64_t left = e.length;
  if ((e.flags & kFixedBuffer) != 0) {
    if (e.bufferIndex >= kBuffers || e.bufferCount != 0) return -EINVAL;
    const RegisteredBuffer& buffer = buffers_[e.bufferIndex];
    if (buffer.address == nullptr || e.bufferSkip > buffer.length || left > buffer.length - e.bufferSkip) return -EINVAL;
    if (left > 0) job.iov.push_back({buffer.address + e.bufferSkip, static_cast<size_t>(left)});
    if (!buffer.inRing) job.entry.flags &= ~kFixedBuffer;
  } else if (e.bufferCount > 0) {
    napi_value held;
    if (napi_get_element(env_, pinned, e.slot, &held) != napi_ok) return -EINVAL;
    if (e.bufferCount == 1) {
      const int error = Add(job, held, e.bufferSkip, &left);
      if (error != 0) return error;
    } else {
      for (uint32_t i = 0; i < e.bufferCount && left > 0; i++) {
        napi_value view;
        if (job.iov.size() == kIovMax || napi_get_element(env_, held, i, &view) != napi_ok) return -EINVAL;
        const int error = Add(job, view, i == 0 ? e.bufferSkip : 0, &left);
        if (error != 0) return error;
      }
    }
    // an operation never reaches past the views it was given
    if (left > 0) return -EINVAL;
  } else {
    const Op op = static_cast<Op>(e.op);
    if ((op == Op::Read || op == Op::Write || op == Op::NvmeIo || op == Op::NvmeAdmin) && left > 0) return -EINVAL;
  }
  if (e.metadataLength > 0) {
    napi_value held;
    void* data = nullptr;
    size_t length = 0;
    if (napi_get_element(env_, pinned, options_.depth + e.slot, &held) != napi_ok) return -EINVAL;
    if (napi_get_typedarray_info(env_, held, nullptr, &length, &data, nullptr, nullptr) != napi_ok) return -EINVAL;
    if (length < e.metadataLength) return -EINVAL;
    job.metadata = data;
  }
  return 0;
}

void EngineCore::Fail(const Job& job, int error) { atOnce_.push_back({job.entry.slot, -error, 0, 0}); }

void EngineCore::Start(Job& job) {
  const Op op = static_cast<Op>(job.entry.op);
  if ((job.entry.flags & kInline) != 0) {
    state_[kInlineJobs]++;
    Perform(job);
    atOnce_.push_back(job.completion);
    return;
  }
  Ring* ring = nullptr;
  if (op == Op::NvmeIo || op == Op::NvmeAdmin) {
    if ((job.entry.flags & kPool) == 0 && hasWideRing()) ring = wide_.get();
  } else if ((job.entry.flags & kPool) == 0 && ring_ != nullptr && ring_->supports(op)) {
    ring = ring_.get();
  }
  if (ring != nullptr) {
    if (!ring->Queue(job, ring == ring_.get() && filesRegistered_)) Fail(job, EBUSY);
    return;
  }
  state_[kPoolJobs]++;
  const int error = pool_->Queue(&job);
  if (error != 0) Fail(job, -error);
}

bool EngineCore::Accepts(uint32_t count) {
  if (count > options_.depth) return false;
  for (uint32_t i = 0; i < count; i++) {
    const uint32_t slot = submissions_[i].slot;
    if (slot >= options_.depth || busy_[slot] != 0) return false;
    busy_[slot] = 1;
  }
  return true;
}

uint32_t EngineCore::Submit(uint32_t count, napi_value pinned) {
  for (uint32_t i = 0; i < count; i++) {
    const Entry& entry = submissions_[i];
    Job& job = jobs_[entry.slot];
    job.entry = entry;
    job.completion = {entry.slot, 0, 0, 0};
    const int error = entry.op < kOpCount ? Locate(job, pinned) : -EINVAL;
    if (error != 0) {
      Fail(job, -error);
    } else {
      Start(job);
    }
  }
  Count(static_cast<int32_t>(count));
  if (ring_ != nullptr) EnterRing(*ring_);
  if (wide_ != nullptr) EnterRing(*wide_);
  return Drain();
}

void EngineCore::EnterRing(Ring& ring) {
  if (ring.unsubmitted() == 0) return;
  state_[kEnters]++;
  const int error = ring.Enter();
  if (error == 0 || error == -EAGAIN || error == -EBUSY || error == -ENOMEM) return;
  // the ring is not usable any more: say so for what it did not take
  ring.Abandon([this, error](uint32_t slot) { atOnce_.push_back({slot, error, 0, 0}); });
}

uint32_t EngineCore::Drain() {
  uint32_t count = 0;
  for (const Completion& completion : atOnce_) completions_[count++] = completion;
  atOnce_.clear();
  const uint32_t depth = options_.depth;
  if (ring_ != nullptr) count += ring_->Reap(completions_ + count, depth - count);
  if (wide_ != nullptr) count += wide_->Reap(completions_ + count, depth - count);
  count += pool_->Reap(completions_ + count, depth - count);
  for (uint32_t i = 0; i < count; i++) busy_[completions_[i].slot] = 0;
  Count(-static_cast<int32_t>(count));
  state_[kUnsubmitted] = static_cast<int32_t>((ring_ != nullptr ? ring_->unsubmitted() : 0) +
                                              (wide_ != nullptr ? wide_->unsubmitted() : 0));
  return count;
}

void EngineCore::Count(int32_t change) {
  const bool wasIdle = inFlight_ == 0;
  inFlight_ += change;
  state_[kInFlight] = static_cast<int32_t>(inFlight_);
  if (wasIdle == (inFlight_ == 0)) return;
  // while something is in flight, the loop goes on and the object is not collected
  SetKeepsLoopAlive(inFlight_ > 0);
  if (wrapper == nullptr) return;
  if (inFlight_ > 0) {
    wrapper->Ref();
  } else {
    wrapper->Unref();
  }
}

void EngineCore::OnEvents(int status, int events) {
  uint64_t value;
  while (read(eventFd_, &value, sizeof value) < 0 && errno == EINTR) {
  }
  state_[kWakeUps]++;
  const uint32_t count = Drain();
  if (count > 0) CallBack(env_, onComplete, context_, static_cast<int32_t>(count));
}

void EngineCore::OnClose() {
  // the memory of what is in flight must stay until the kernel is done with it
  if (ring_ != nullptr) ring_->Drain();
  if (wide_ != nullptr) wide_->Drain();
  if (pool_ != nullptr) pool_->Drain();
  ring_.reset();
  wide_.reset();
  pool_.reset();
  if (wrapper != nullptr) {
    wrapper->core_ = nullptr;
    if (inFlight_ > 0) wrapper->Unref();
    wrapper = nullptr;
  }
  pins.Reset();
  onComplete.Reset();
  submissionsRef.Reset();
  completionsRef.Reset();
  stateRef.Reset();
  for (RegisteredBuffer& buffer : buffers_) buffer.reference.Reset();
}

int EngineCore::RegisterFile(uint32_t index, int fd) {
  if (index >= kFiles) return -EINVAL;
  return filesRegistered_ ? ring_->UpdateFile(index, fd) : -EOPNOTSUPP;
}

int EngineCore::RegisterBuffer(uint32_t index, napi_value value) {
  if (index >= kBuffers) return -EINVAL;
  RegisteredBuffer& buffer = buffers_[index];
  bool given = false;
  napi_is_arraybuffer(env_, value, &given);
  void* address = nullptr;
  size_t length = 0;
  if (given) napi_get_arraybuffer_info(env_, value, &address, &length);
  if (given && (address == nullptr || buffer.address != nullptr)) return -EINVAL;
  if (given) {
    buffer.inRing = buffersRegistered_ && ring_->UpdateBuffer(index, address, length) == 0;
    buffer.reference = Napi::Persistent(Napi::ArrayBuffer(env_, value));
  } else {
    if (buffer.inRing) ring_->UpdateBuffer(index, nullptr, 0);
    buffer.inRing = false;
    buffer.reference.Reset();
  }
  buffer.address = static_cast<uint8_t*>(address);
  buffer.length = length;
  return 0;
}

// ---- the JavaScript object -----------------------------------------------------------------------------------------------------------

Napi::Function Engine::Define(Napi::Env env) {
  return DefineClass(env, "Engine",
                     {
                         InstanceMethod<&Engine::Submit>("submit"),
                         InstanceMethod<&Engine::RegisterFile>("registerFile"),
                         InstanceMethod<&Engine::RegisterBuffer>("registerBuffer"),
                         InstanceMethod<&Engine::Close>("close"),
                         InstanceAccessor<&Engine::GetMode>("mode"),
                         InstanceAccessor<&Engine::GetPassthrough>("passthrough"),
                         InstanceAccessor<&Engine::GetRefusal>("refusal"),
                         InstanceAccessor<&Engine::GetSubmissions>("submissions"),
                         InstanceAccessor<&Engine::GetCompletions>("completions"),
                         InstanceAccessor<&Engine::GetState>("state"),
                     });
}

Engine::Engine(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Engine>(info) {
  Napi::Env env = info.Env();
  if (info.Length() < 3 || !info[0].IsObject() || !info[1].IsArray() || !info[2].IsFunction()) {
    Napi::TypeError::New(env, "Engine takes options, pins and a callback").ThrowAsJavaScriptException();
    return;
  }
  Napi::Object given = info[0].As<Napi::Object>();
  EngineCore::Options options{};
  options.depth = given.Get("depth").ToNumber().Uint32Value();
  options.threads = given.Get("threads").ToNumber().Uint32Value();
  options.wantsRing = given.Get("ring").ToBoolean().Value();
  if (options.depth < 1 || options.depth > kDepthMax || options.threads < 1 || options.threads > kThreadsMax) {
    Napi::RangeError::New(env, "Engine depth or threads out of range").ThrowAsJavaScriptException();
    return;
  }
  EngineCore* core = new EngineCore(env, this, options);
  const int error = core->Open();
  if (error != 0) {
    core->Abandon();
    Napi::Error failure = Napi::Error::New(env, "Engine cannot be opened");
    failure.Set("errno", Napi::Number::New(env, error));
    failure.ThrowAsJavaScriptException();
    return;
  }
  core->pins = Napi::Persistent(info[1].As<Napi::Array>());
  core->onComplete = Napi::Persistent(info[2].As<Napi::Function>());
  core_ = core;
}

Engine::~Engine() {
  if (core_ == nullptr) return;
  core_->wrapper = nullptr;
  core_->Close();
}

Napi::Value Engine::Submit(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (core_ == nullptr) {
    Napi::Error::New(env, "Engine is closed").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  uint32_t count = 0;
  napi_get_value_uint32(env, info[0], &count);
  if (!core_->Accepts(count)) {
    Napi::RangeError::New(env, "Engine was given a slot that is out of range or in use").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  return Napi::Number::New(env, core_->Submit(count, core_->pins.Value()));
}

Napi::Value Engine::RegisterFile(const Napi::CallbackInfo& info) {
  const int result = core_ == nullptr ? -EBADF
                                      : core_->RegisterFile(info[0].ToNumber().Uint32Value(),
                                                            info[1].ToNumber().Int32Value());
  return Napi::Number::New(info.Env(), result);
}

Napi::Value Engine::RegisterBuffer(const Napi::CallbackInfo& info) {
  const int result =
      core_ == nullptr ? -EBADF : core_->RegisterBuffer(info[0].ToNumber().Uint32Value(), info[1]);
  return Napi::Number::New(info.Env(), result);
}

Napi::Value Engine::Close(const Napi::CallbackInfo& info) {
  if (core_ != nullptr) core_->Close();
  return info.Env().Undefined();
}

Napi::Value Engine::GetMode(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), core_ != nullptr && core_->hasRing() ? "io_uring" : "thread-pool");
}

Napi::Value Engine::GetPassthrough(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), core_ != nullptr && core_->hasWideRing() ? "io_uring" : "ioctl");
}

Napi::Value Engine::GetRefusal(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), core_ != nullptr ? core_->refusal() : 0);
}

Napi::Value Engine::GetSubmissions(const Napi::CallbackInfo& info) {
  return core_ != nullptr ? Napi::Value(core_->submissionsRef.Value()) : info.Env().Undefined();
}

Napi::Value Engine::GetCompletions(const Napi::CallbackInfo& info) {
  return core_ != nullptr ? Napi::Value(core_->completionsRef.Value()) : info.Env().Undefined();
}

Napi::Value Engine::GetState(const Napi::CallbackInfo& info) {
  return core_ != nullptr ? Napi::Value(core_->stateRef.Value()) : info.Env().Undefined();
}

}  // namespace nvmeferry
