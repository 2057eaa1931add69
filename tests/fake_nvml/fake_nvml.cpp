// A libnvidia-ml.so.1 for tests. At each question it reads the file that FAKE_NVML names:
//
//   device UUID TOTAL USED        bytes; USED by nobody who is named
//   instance UUID TOTAL USED      of the device before, which is in MIG mode then
//   process PID BYTES [MS]        of the device before: named and counted while it lives, counted
//                                 for MS longer (memory that a driver gives back late)
//   hidden PID BYTES [MS]         the same, but never named: as in a container
//   says PID BYTES                named, counted nowhere, living or not
//   fail init|count|handle|uuid|memory|processes CODE
//   hang init|count|memory        that call never returns
//   garbage                       devices have numbers that none has
//
// Without the file there are no devices.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

struct Process {
  unsigned pid = 0;
  unsigned long long bytes = 0;
  std::chrono::milliseconds held{0};
  bool is_named = true;
  bool is_counted = true;
};
struct Device {
  std::string uuid;
  unsigned long long total = 0;
  unsigned long long used = 0;
  std::vector<Process> processes;
  bool is_instance = false;  // of the last that is none
};
struct Told {
  std::vector<Device> devices;
  std::map<std::string, int> fails;
  std::string hangs;
  bool is_garbage = false;
};

Told read_file() {
  Told told;
  const char* path = std::getenv("FAKE_NVML");
  std::ifstream file(path != nullptr ? path : "");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string what;
    words >> what;
    if (what == "device" || (what == "instance" && !told.devices.empty())) {
      Device device;
      device.is_instance = what == "instance";
      words >> device.uuid >> device.total >> device.used;
      told.devices.push_back(device);
    } else if ((what == "process" || what == "hidden" || what == "says") && !told.devices.empty()) {
      Process process;
      long held_ms = 0;
      words >> process.pid >> process.bytes >> held_ms;
      process.held = std::chrono::milliseconds(held_ms);
      process.is_named = what != "hidden";
      process.is_counted = what != "says";
      told.devices.back().processes.push_back(process);
    } else if (what == "fail") {
      std::string call;
      words >> call;
      words >> told.fails[call];
    } else if (what == "hang") {
      words >> told.hangs;
    } else if (what == "garbage") {
      told.is_garbage = true;
    }
  }
  return told;
}

bool lives(unsigned pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(stat, text);
  const auto end = text.rfind(')');
  return end != std::string::npos && text.size() > end + 2 && text[end + 2] != 'Z';
}

// When it was first seen to have ended.
bool is_held(const Process& process) {
  static std::map<unsigned, Clock::time_point> ended;
  if (lives(process.pid)) return true;
  const auto since = ended.emplace(process.pid, Clock::now()).first->second;
  return Clock::now() - since < process.held;
}

int answer(const char* call, const Told& told) {
  while (told.hangs == call) pause();
  const auto fails = told.fails.find(call);
  return fails == told.fails.end() ? 0 : fails->second;
}

// Handles count devices and instances alike.
void* handle_of(std::size_t position) { return reinterpret_cast<void*>(position + 1); }
const Device* device_of(const Told& told, void* handle) {
  const auto number = reinterpret_cast<std::uintptr_t>(handle);
  return number >= 1 && number <= told.devices.size() ? &told.devices[number - 1] : nullptr;
}

struct Memory {
  unsigned long long total, free, used;
};
struct ProcessInfo {
  unsigned pid;
  unsigned long long bytes;
  unsigned gpu_instance, compute_instance;
};

}  // namespace

// NOLINTBEGIN(readability-identifier-naming): the names are the driver's
extern "C" {

int nvmlInit_v2() { return answer("init", read_file()); }
int nvmlShutdown() { return 0; }
const char* nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : "some error"; }

int nvmlDeviceGetCount_v2(unsigned* count) {
  const Told told = read_file();
  *count = 0;
  for (const Device& device : told.devices) *count += !device.is_instance;
  return answer("count", told);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** handle) {
  const Told told = read_file();
  for (std::size_t at = 0; at < told.devices.size(); ++at) {
    if (told.devices[at].is_instance || index-- != 0) continue;
    *handle = handle_of(at);
    return answer("handle", told);
  }
  return 2;
}

int nvmlDeviceGetMigMode(void* handle, unsigned* current, unsigned* pending) {
  const Told told = read_file();
  const Device* device = device_of(told, handle);
  if (device == nullptr) return 2;
  const bool is_last = device == &told.devices.back();
  *current = *pending = !is_last && (device + 1)->is_instance;
  return 0;
}

// As many as there may be; there are fewer.
int nvmlDeviceGetMaxMigDeviceCount(void*, unsigned* count) {
  *count = 7;
  return 0;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void* handle, unsigned index, void** instance) {
  const Told told = read_file();
  const Device* device = device_of(told, handle);
  if (device == nullptr) return 2;
  const auto at = static_cast<std::size_t>(device - told.devices.data()) + 1 + index;
  for (std::size_t i = at - index; i <= at; ++i) {
    if (i >= told.devices.size() || !told.devices[i].is_instance) return 6;
  }
  *instance = handle_of(at);
  return 0;
}

int nvmlDeviceGetUUID(void* handle, char* uuid, unsigned size) {
  const Told told = read_file();
  const Device* device = device_of(told, handle);
  if (device == nullptr) return 2;
  std::strncpy(uuid, told.is_garbage ? "\x01\x02 x" : device->uuid.c_str(), size);
  return answer("uuid", told);
}

int nvmlDeviceGetMemoryInfo(void* handle, Memory* memory) {
  const Told told = read_file();
  const Device* device = device_of(told, handle);
  if (device == nullptr) return 2;
  unsigned long long used = device->used;
  for (const Process& process : device->processes) {
    if (process.is_counted && is_held(process)) used += process.bytes;
  }
  *memory = {device->total, device->total - used, used};
  if (told.is_garbage) *memory = {1ull << 63, ~0ull, 7};
  return answer("memory", told);
}

int nvmlDeviceGetComputeRunningProcesses_v3(void* handle, unsigned* count, ProcessInfo* infos) {
  const Told told = read_file();
  const Device* device = device_of(told, handle);
  if (device == nullptr) return 2;
  const unsigned room = *count;
  *count = 0;
  for (const Process& process : device->processes) {
    const bool is_named = process.is_named && (!process.is_counted || lives(process.pid));
    if (!is_named || *count == room) continue;
    infos[(*count)++] = {process.pid, process.bytes, 0, 0};
  }
  return answer("processes", told);
}

}  // extern "C"
// NOLINTEND(readability-identifier-naming)
