#include "runtime.h"

#include <sys/mman.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <map>
#include <set>
#include <thread>

#include "emulation/tensor_map.h"

namespace l4::emulation {

namespace {

// ---- memory

struct Allocation {
  size_t bytes = 0;
  int device = 0;  // -1: pinned host memory
  void* mapped = nullptr;
  size_t mapped_bytes = 0;
};

struct Memory {
  std::mutex mutex;
  std::map<uintptr_t, Allocation> allocations;
  size_t used[kDevices] = {};

  const Allocation* find(const void* p) {
    auto at = allocations.upper_bound(reinterpret_cast<uintptr_t>(p));
    if (at == allocations.begin()) return nullptr;
    --at;
    return reinterpret_cast<uintptr_t>(p) < at->first + std::max<size_t>(at->second.bytes, 1) ? &at->second : nullptr;
  }
};
Memory& memory() {
  static Memory m;
  return m;
}

enum class Place { host, pinned, device };
Place place_of(const void* p) {
  const std::lock_guard lock(memory().mutex);
  const Allocation* a = memory().find(p);
  return !a ? Place::host : a->device < 0 ? Place::pinned : Place::device;
}
// Whether n_bytes from p belong to one allocation, where they belong to any.
bool inside(const void* p, size_t n_bytes) {
  const std::lock_guard lock(memory().mutex);
  const Allocation* a = memory().find(p);
  if (!a) return true;
  for (auto& [address, allocation] : memory().allocations)
    if (&allocation == a) return reinterpret_cast<uintptr_t>(p) + n_bytes <= address + a->bytes;
  return false;
}

cudaError_t allocate(void** p, size_t n_bytes, int device) {
  constexpr size_t kPage = 4096, kAlign = 256;
  const size_t room = (std::max<size_t>(n_bytes, 1) + kAlign - 1) / kAlign * kAlign;
  const size_t mapped = (room + kPage - 1) / kPage * kPage + kPage;
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  if (device >= 0 && m.used[device] + room > kDeviceBytes) return cudaErrorMemoryAllocation;
  void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return cudaErrorMemoryAllocation;
  char* guard = static_cast<char*>(base) + mapped - kPage;
  mprotect(guard, kPage, PROT_NONE);  // what lies past the end may not be touched
  *p = guard - room;
  if (room <= size_t(64) << 20) std::memset(*p, 0xFF, room);
  m.allocations[reinterpret_cast<uintptr_t>(*p)] = {n_bytes, device, base, mapped};
  if (device >= 0) m.used[device] += room;
  return cudaSuccess;
}

cudaError_t release(void* p, bool device) {
  if (!p) return cudaSuccess;
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  const auto at = m.allocations.find(reinterpret_cast<uintptr_t>(p));
  if (at == m.allocations.end() || (at->second.device >= 0) != device) return cudaErrorInvalidValue;
  if (device) m.used[at->second.device] -= (std::max<size_t>(at->second.bytes, 1) + 255) / 256 * 256;
  munmap(at->second.mapped, at->second.mapped_bytes);
  m.allocations.erase(at);
  return cudaSuccess;
}

// ---- errors, devices

thread_local cudaError_t t_last = cudaSuccess;
thread_local int t_device = 0;
thread_local int t_captures = 0;  // this thread began and has not ended

cudaError_t say(cudaError_t status) {
  if (status != cudaSuccess) t_last = status;
  return status;
}

// ---- streams

struct Streams {
  std::mutex mutex;
  std::set<CUstream_st*> all;
  std::vector<std::unique_ptr<CUstream_st>> ended;  // another thread that waits for all streams may still look at one
  CUstream_st of_device[kDevices];                  // the default streams
  Streams() {
    for (int d = 0; d < kDevices; ++d) of_device[d].device = d, all.insert(&of_device[d]);
  }
};
Streams& streams() {
  static Streams s;
  return s;
}

bool eager() {
  static const bool value = [] {
    const char* v = std::getenv("L4_EMULATION_STREAMS");
    return v && std::string(v) == "eager";
  }();
  return value;
}

CUstream_st* real(cudaStream_t s) {
  return s && s != cudaStreamLegacy && s != cudaStreamPerThread ? s : &streams().of_device[t_device];
}

// Does the stream's first steps, up to `after`.
void drain(CUstream_st* s, uint64_t after) {
  const std::lock_guard lock(s->mutex);
  while (s->n_done < after && !s->steps.empty()) {
    const Step step = std::move(s->steps.front());
    s->steps.pop_front();
    ++s->n_done;
    step();
  }
}
void drain(CUstream_st* s) {
  drain(s, UINT64_MAX);
}
constexpr int kAll = -1;  // devices
std::vector<CUstream_st*> streams_of(int device, bool blocking_only) {
  const std::lock_guard lock(streams().mutex);
  std::vector<CUstream_st*> out;
  for (CUstream_st* s : streams().all)
    if ((device == kAll || s->device == device) && (s->blocking || !blocking_only)) out.push_back(s);
  return out;
}

void drain_device(int device) {
  for (CUstream_st* s : streams_of(device, false)) drain(s);
}

cudaError_t issue(cudaStream_t stream, Step step) {
  CUstream_st* s = real(stream);
  if (s->capture) {
    s->capture->steps.push_back(std::move(step));
    return cudaSuccess;
  }
  if (stream != s)  // the default stream: in order with all blocking streams
    for (CUstream_st* other : streams_of(s->device, true)) drain(other);
  {
    const std::lock_guard lock(s->mutex);
    s->steps.push_back(std::move(step));
    ++s->n_issued;
  }
  if (eager() || stream != s) drain(s);
  return cudaSuccess;
}

bool capturing(cudaStream_t stream) {
  return real(stream)->capture != nullptr;
}

}  // namespace

cudaError_t issue_step(cudaStream_t stream, Step step) {
  return issue(stream, std::move(step));
}

// Work of all streams that no thread is doing; for a kernel that waits for another GPU.
void help_other_streams() {
  // One helper at a time is enough: what it does may wait for other streams and ask for help itself.
  static std::atomic<int> g_helpers{0};
  if (g_helpers.load() >= kDevices) return;
  ++g_helpers;
  std::thread([] {
    for (CUstream_st* s : streams_of(kAll, false)) {
      if (!s->mutex.try_lock()) continue;
      try {
        drain(s);
      } catch (const Error& e) {
        std::fprintf(stderr, "%s\n", e.what());  // the stream's own thread waits in vain and says where
      }
      s->mutex.unlock();
    }
    --g_helpers;
  }).detach();
}

namespace {
const bool g_helping = [] {
  help_others = help_other_streams;
  return true;
}();
}  // namespace

// ---- launches

namespace {

// Of hosts that load or allocate one at a time comes in, and waits for the device's work.
void wait_alone(int device) {
  static std::mutex alone;
  const std::lock_guard lock(alone);
  drain_device(device);
}

struct Functions {
  std::mutex mutex;
  std::map<std::pair<const void*, int>, int> max_dynamic_shared;  // of a kernel on a device
};
Functions& functions() {
  static Functions f;
  return f;
}

}  // namespace

cudaError_t issue_kernel(const cudaLaunchConfig_t& config, const void* kernel, Step body) {
  LaunchShape shape{config.gridDim, config.blockDim, config.dynamicSmemBytes, false, false, kernel, 1};
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttribute& a = config.attrs[i];
    if (a.id == cudaLaunchAttributeProgrammaticStreamSerialization)
      shape.programmatic = a.val.programmaticStreamSerializationAllowed != 0;
    else if (a.id == cudaLaunchAttributeCooperative)
      shape.cooperative = a.val.cooperative != 0;
    else if (a.id == cudaLaunchAttributeClusterDimension && a.val.clusterDim.y == 1 && a.val.clusterDim.z == 1)
      shape.cluster = a.val.clusterDim.x;
    else if (a.id == cudaLaunchAttributePreferredSharedMemoryCarveout)
      continue;  // has no meaning here
    else
      return say(cudaErrorNotSupported);
  }
  {
    const std::lock_guard lock(functions().mutex);
    const auto allowed = functions().max_dynamic_shared.find({kernel, t_device});
    const int limit = allowed == functions().max_dynamic_shared.end() ? 48 << 10 : allowed->second;
    if (shape.shared_bytes > size_t(limit)) return say(cudaErrorInvalidValue);
  }
  if (!shape.grid.x || !shape.grid.y || !shape.grid.z) return say(cudaErrorInvalidConfiguration);
  constexpr unsigned kMaxCluster = 8;  // without a word about more
  if (!shape.cluster || shape.cluster > kMaxCluster || shape.grid.x % shape.cluster)
    return say(cudaErrorInvalidClusterSize);
  if (CUstream_st* s = real(config.stream); s->loaded.insert(kernel).second) wait_alone(s->device);
  return issue(config.stream, [shape, body = std::move(body)] { run_kernel(shape, body); });
}

}  // namespace l4::emulation

using namespace l4::emulation;

extern "C" {

// ---- devices

cudaError_t cudaGetDeviceCount(int* n) {
  *n = kDevices;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kDevices) return say(cudaErrorInvalidDevice);
  t_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = t_device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (device < 0 || device >= kDevices) return say(cudaErrorInvalidDevice);
  std::memset(p, 0, sizeof *p);
  std::snprintf(p->name, sizeof p->name, "emulated Hopper");
  p->totalGlobalMem = kDeviceBytes;
  p->sharedMemPerBlock = 48 << 10;
  p->sharedMemPerBlockOptin = 232448;
  p->sharedMemPerMultiprocessor = 233472;
  p->reservedSharedMemPerBlock = 1024;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->maxBlocksPerMultiProcessor = 32;
  p->major = 9;
  p->multiProcessorCount = kMultiprocessors;
  p->l2CacheSize = 50 << 20;
  p->memoryBusWidth = 5120;
  p->unifiedAddressing = p->cooperativeLaunch = p->canMapHostMemory = p->concurrentKernels = 1;
  p->asyncEngineCount = 3;
  p->pciBusID = device + 1;
  for (int i = 0; i < 3; ++i) p->maxGridSize[i] = i ? 65535 : 2147483647, p->maxThreadsDim[i] = i == 2 ? 64 : 1024;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  if (cudaError_t status = cudaGetDeviceProperties(&p, device)) return status;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = p.multiProcessorCount;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = int(p.sharedMemPerBlockOptin);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = int(p.sharedMemPerBlock);
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = int(p.sharedMemPerMultiprocessor);
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrL2CacheSize:
      *value = p.l2CacheSize;
      break;
    case cudaDevAttrMaxThreadsPerBlock:
      *value = p.maxThreadsPerBlock;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = p.maxThreadsPerMultiProcessor;
      break;
    case cudaDevAttrCooperativeLaunch:
      *value = 1;
      break;
    case cudaDevAttrClockRate:
      *value = 1980000;
      break;
    case cudaDevAttrMemoryClockRate:
      *value = 2619000;
      break;
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = p.memoryBusWidth;
      break;
    default:
      return say(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* id, int n, int device) {
  std::snprintf(id, size_t(n), "0000:%02X:00.0", device + 1);
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) {
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0, *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  if (t_captures) return say(cudaErrorStreamCaptureUnsupported);
  drain_device(t_device);
  return cudaSuccess;
}
cudaError_t cudaDeviceSetLimit(cudaLimit, size_t) {
  return cudaSuccess;
}

// ---- errors

cudaError_t cudaGetLastError() {
  return std::exchange(t_last, cudaSuccess);
}
cudaError_t cudaPeekAtLastError() {
  return t_last;
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidClusterSize:
      return "invalid cluster size";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorNotSupported:
      return "operation not supported";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureUnjoined:
      return "stream capture has unjoined work";
    case cudaErrorIllegalState:
      return "the operation cannot be performed in the present state";
    default:
      return "an error of emulated CUDA";
  }
}
const char* cudaGetErrorName(cudaError_t error) {
  return cudaGetErrorString(error);
}

// ---- memory

cudaError_t cudaMalloc(void** p, size_t n_bytes) {
  if (t_captures) return say(cudaErrorStreamCaptureUnsupported);
  wait_alone(t_device);
  return say(allocate(p, n_bytes, t_device));
}
cudaError_t cudaFree(void* p) {
  if (!p) return cudaSuccess;
  if (t_captures) return say(cudaErrorStreamCaptureUnsupported);
  drain_device(kAll);  // freeing waits for the device that the memory belongs to, whichever is current; here for all
  return say(release(p, true));
}
cudaError_t cudaHostAlloc(void** p, size_t n_bytes, unsigned) {
  if (t_captures) return say(cudaErrorStreamCaptureUnsupported);
  return say(allocate(p, n_bytes, -1));
}
cudaError_t cudaMallocHost(void** p, size_t n_bytes) {
  return cudaHostAlloc(p, n_bytes, 0);
}
cudaError_t cudaFreeHost(void* p) {
  drain_device(kAll);
  return say(release(p, false));
}
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  *device = host;
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void*, size_t, unsigned) {
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void*) {
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  const std::lock_guard lock(memory().mutex);
  *total_bytes = kDeviceBytes;
  *free_bytes = kDeviceBytes - memory().used[t_device];
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  const std::lock_guard lock(memory().mutex);
  const Allocation* found = memory().find(p);
  *a = {};
  a->type = !found ? cudaMemoryTypeUnregistered : found->device < 0 ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
  a->device = found && found->device >= 0 ? found->device : t_device;
  a->devicePointer = a->hostPointer = const_cast<void*>(p);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n_bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const Place t = place_of(to), f = place_of(from);
  const bool to_device = t == Place::device, from_device = f == Place::device;
  if ((kind == cudaMemcpyHostToDevice && (!to_device || from_device)) ||
      (kind == cudaMemcpyDeviceToHost && (to_device || !from_device)) ||
      (kind == cudaMemcpyDeviceToDevice && (!to_device || !from_device)) || !inside(to, n_bytes) ||
      !inside(from, n_bytes))
    return say(cudaErrorInvalidValue);
  if (f == Place::host && !capturing(stream)) {  // taken now, as the runtime stages it
    auto bytes =
        std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + n_bytes);
    return issue(stream, [=] { std::memcpy(to, bytes->data(), n_bytes); });
  }
  const cudaError_t status = issue(stream, [=] { std::memmove(to, from, n_bytes); });
  if (t == Place::host && !capturing(stream)) drain(real(stream));  // into pageable memory it waits
  return status;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t n_bytes, cudaMemcpyKind kind) {
  if (t_captures) return say(cudaErrorStreamCaptureUnsupported);
  return cudaMemcpyAsync(to, from, n_bytes, kind, nullptr);  // the default stream does it at once
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t stream) {
  const cudaError_t status = issue(stream, [=] {
    for (size_t i = 0; i < height; ++i)
      std::memmove(static_cast<char*>(to) + i * to_pitch, static_cast<const char*>(from) + i * from_pitch, width);
  });
  if (!capturing(stream) && (place_of(to) == Place::host || place_of(from) == Place::host)) drain(real(stream));
  return status;
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t n_bytes, cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToDevice, stream);
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t n_bytes, cudaStream_t stream) {
  if (place_of(to) == Place::host || !inside(to, n_bytes)) return say(cudaErrorInvalidValue);
  return issue(stream, [=] { std::memset(to, value, n_bytes); });
}
cudaError_t cudaMemset(void* to, int value, size_t n_bytes) {
  return cudaMemsetAsync(to, value, n_bytes, nullptr);
}

// ---- streams and events

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  auto s = new CUstream_st;
  s->device = t_device;
  s->blocking = flags != cudaStreamNonBlocking;
  const std::lock_guard lock(streams().mutex);
  streams().all.insert(s);
  *stream = s;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  drain(s);
  const std::lock_guard lock(streams().mutex);
  streams().all.erase(s);
  streams().ended.emplace_back(s);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  if (capturing(s)) return say(cudaErrorStreamCaptureUnsupported);
  drain(real(s));
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t s) {
  return cudaStreamSynchronize(s);  // a look is as good as a wait
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  CUstream_st* s = real(stream);
  if (event->capture) {
    s->capture = event->capture;  // joins the capture; steps are recorded in the order of issue
    return cudaSuccess;
  }
  if (!event->stream || event->stream == s) return cudaSuccess;
  return issue(stream, [from = event->stream, after = event->after] { drain(from, after); });
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, 0);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  CUstream_st* s = real(stream);
  event->capture = s->capture;
  if (s->capture) return cudaSuccess;
  const std::lock_guard lock(s->mutex);
  event->stream = s;
  event->after = s->n_issued;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->capture) return say(cudaErrorStreamCaptureUnsupported);
  if (event->stream) drain(event->stream, event->after);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  return cudaEventSynchronize(event);
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
  *ms = 0;
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return issue(stream, [=] { function(data); });
}

// ---- graphs

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream || stream->capture) return say(cudaErrorIllegalState);
  stream->capture = std::make_shared<CUgraph_st>();
  ++t_captures;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream->capture) return say(cudaErrorIllegalState);
  --t_captures;
  const auto capture = stream->capture;
  for (CUstream_st* s : streams_of(kAll, false))
    if (s->capture == capture) s->capture = nullptr;
  *graph = new CUgraph_st(*capture);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = capturing(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) {
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{std::make_shared<const std::vector<Step>>(graph->steps)};
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiate(exec, graph, flags);
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return issue(stream, [steps = exec->steps] {
    for (const Step& step : *steps) step();
  });
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* n) {
  *n = graph->steps.size();
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}

// ---- functions

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || value > 232448) return say(cudaErrorInvalidValue);
  const std::lock_guard lock(functions().mutex);
  functions().max_dynamic_shared[{kernel, t_device}] = value;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  std::memset(attributes, 0, sizeof *attributes);
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 64;
  attributes->binaryVersion = attributes->ptxVersion = 90;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void*, int n_threads, size_t shared_bytes) {
  const size_t by_shared = 233472 / (shared_bytes + 1024);
  *n = int(std::min({size_t(2048 / std::max(n_threads, 1)), by_shared, size_t(4)}));
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  const bool known = std::string(symbol) == "cuTensorMapEncodeTiled";
  *function = known ? reinterpret_cast<void*>(encode_tensor_map) : nullptr;
  if (found) *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

}  // extern "C"
