#include "sample/nvml.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <map>

#include "base/need.hpp"
#include "base/proc.hpp"
#include "base/text.hpp"
#include "base/time.hpp"

namespace modelpool::sample {
namespace {

constexpr std::uint64_t kLoadAgain_ns = 30 * kSecond_ns;
constexpr std::uint64_t kStartAgain_ns = 5 * kSecond_ns;  // after it has lost a device
constexpr std::size_t kProcessesMax = 1024;
// What the driver keeps for itself: where no process is named, so much tells nothing.
constexpr std::uint64_t kOfDriver_bytes = std::uint64_t{1} << 30;

// --- nvml.h, as far as it is needed here ---------------------------------------------------------

using Handle = void*;
using Code = int;
constexpr Code kSuccess = 0;
constexpr Code kUninitialized = 1;
constexpr Code kGpuIsLost = 15;
constexpr unsigned kMigIsOn = 1;
constexpr std::uint64_t kNotAvailable = UINT64_MAX;

struct Memory {
  unsigned long long total = 0;
  unsigned long long free = 0;
  unsigned long long used = 0;
};
struct Process {  // nvmlProcessInfo_v2_t, from driver 455 on
  unsigned pid = 0;
  unsigned long long bytes = 0;
  unsigned gpu_instance = 0;
  unsigned compute_instance = 0;
};
static_assert(sizeof(Process) == 24);

using Init = Code (*)();
using Shutdown = Code (*)();
using ErrorString = const char* (*)(Code);
using GetCount = Code (*)(unsigned*);
using GetHandle = Code (*)(unsigned, Handle*);
using GetUuid = Code (*)(Handle, char*, unsigned);
using GetMemory = Code (*)(Handle, Memory*);
using GetProcesses = Code (*)(Handle, unsigned*, Process*);
using GetMigMode = Code (*)(Handle, unsigned* current, unsigned* pending);
using GetMigCount = Code (*)(Handle, unsigned*);
using GetMigHandle = Code (*)(Handle, unsigned, Handle*);

// A device or, of one in MIG mode, an instance.
struct Part {
  Handle handle = nullptr;
  std::string name;  // "device 0", "instance 2 of device 0"
};

bool is_possible(const Device& device) {
  return !device.uuid.empty() && is_printable_utf8(device.uuid) &&
         device.uuid.find(' ') == std::string::npos &&
         device.total_bytes <= coordinator::kSampleSizeMax_bytes &&
         device.free_bytes <= device.total_bytes;
}

}  // namespace

struct Nvml::Library {
  void* object = nullptr;
  bool is_initialized = false;
  Init init = nullptr;
  Shutdown shutdown = nullptr;
  ErrorString error_string = nullptr;
  GetCount get_count = nullptr;
  GetHandle get_handle = nullptr;
  GetUuid get_uuid = nullptr;
  GetMemory get_memory = nullptr;
  GetProcesses get_compute = nullptr;
  GetProcesses get_graphics = nullptr;
  GetMigMode get_mig_mode = nullptr;
  GetMigCount get_mig_count = nullptr;
  GetMigHandle get_mig_handle = nullptr;

  ~Library() {
    if (is_initialized) shutdown();
    if (object != nullptr) dlclose(object);
  }
  template <class Function>
  bool find(Function* function, std::initializer_list<const char*> names) {
    for (const char* name : names) {
      *function = reinterpret_cast<Function>(dlsym(object, name));
      if (*function != nullptr) return true;
    }
    return false;
  }
  std::string text_of(Code code) const {
    const char* text = error_string != nullptr ? error_string(code) : nullptr;
    return text != nullptr ? std::string(text) : "error " + std::to_string(code);
  }
  // The compute and graphics processes of a device, each once. False: that cannot be read.
  bool add_processes(Handle handle, Device* device) const;
  // Where programs can run: on a device, but in MIG mode on its instances alone.
  std::vector<Part> parts_of(const Part& device) const;
};

Nvml::Nvml() = default;
Nvml::~Nvml() = default;

bool Nvml::Library::add_processes(Handle handle, Device* device) const {
  std::map<pid_t, std::uint64_t> bytes_of;
  bool is_told = get_compute != nullptr;
  for (const GetProcesses get : {get_compute, get_graphics}) {
    if (get == nullptr) continue;
    std::vector<Process> processes(kProcessesMax);
    auto count = static_cast<unsigned>(processes.size());
    if (get(handle, &count, processes.data()) != kSuccess || count > processes.size()) {
      is_told = is_told && get != get_compute;
      continue;
    }
    processes.resize(count);
    for (const Process& process : processes) {
      if (process.bytes == kNotAvailable || process.pid == 0) {
        is_told = false;
        continue;
      }
      // One that is both is named twice, with all that it takes.
      std::uint64_t& bytes = bytes_of[static_cast<pid_t>(process.pid)];
      bytes = std::max<std::uint64_t>(bytes,
                                      std::min<std::uint64_t>(process.bytes, device->total_bytes));
    }
  }
  device->processes.assign(bytes_of.begin(), bytes_of.end());
  return is_told;
}

std::vector<Part> Nvml::Library::parts_of(const Part& device) const {
  unsigned mode = 0;
  unsigned next_mode = 0;
  const bool is_parted =
      get_mig_mode != nullptr && get_mig_count != nullptr && get_mig_handle != nullptr &&
      get_mig_mode(device.handle, &mode, &next_mode) == kSuccess && mode == kMigIsOn;
  if (!is_parted) return {device};
  std::vector<Part> parts;
  unsigned count = 0;
  if (get_mig_count(device.handle, &count) != kSuccess) return parts;
  for (unsigned i = 0; i < std::min<unsigned>(count, kDevicesMax); ++i) {
    Part part{nullptr, "instance " + std::to_string(i) + " of " + device.name};
    // So many there may be: there is none at the others.
    if (get_mig_handle(device.handle, i, &part.handle) == kSuccess) parts.push_back(part);
  }
  return parts;
}

bool Nvml::load(Notes* notes) {
  if (library_) return true;
  if (now_ns() < try_again_ns_) return false;
  try_again_ns_ = now_ns() + kLoadAgain_ns;
  auto library = std::make_unique<Library>();
  library->object = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library->object == nullptr) return false;
  const bool is_usable = library->find(&library->init, {"nvmlInit_v2"}) &&
                         library->find(&library->shutdown, {"nvmlShutdown"}) &&
                         library->find(&library->get_count, {"nvmlDeviceGetCount_v2"}) &&
                         library->find(&library->get_handle, {"nvmlDeviceGetHandleByIndex_v2"}) &&
                         library->find(&library->get_uuid, {"nvmlDeviceGetUUID"}) &&
                         library->find(&library->get_memory, {"nvmlDeviceGetMemoryInfo"});
  if (!is_usable) {
    notes->emplace_back("nvml", "libnvidia-ml.so.1 lacks what is needed of it");
    return false;
  }
  library->find(&library->error_string, {"nvmlErrorString"});
  library->find(&library->get_compute, {"nvmlDeviceGetComputeRunningProcesses_v3",
                                        "nvmlDeviceGetComputeRunningProcesses_v2"});
  library->find(&library->get_graphics, {"nvmlDeviceGetGraphicsRunningProcesses_v3",
                                         "nvmlDeviceGetGraphicsRunningProcesses_v2"});
  library->find(&library->get_mig_mode, {"nvmlDeviceGetMigMode"});
  library->find(&library->get_mig_count, {"nvmlDeviceGetMaxMigDeviceCount"});
  library->find(&library->get_mig_handle, {"nvmlDeviceGetMigDeviceHandleByIndex"});
  if (const Code code = library->init(); code != kSuccess) {
    notes->emplace_back("nvml", "NVML does not start: " + library->text_of(code));
    return false;
  }
  library->is_initialized = true;
  library_ = std::move(library);
  return true;
}

void Nvml::measure(const std::vector<pid_t>& of_backends, std::vector<Device>* devices,
                   Notes* notes) {
  if (!load(notes)) return;
  unsigned count = 0;
  if (const Code code = library_->get_count(&count); code != kSuccess) {
    notes->emplace_back("nvml", "NVML counts no devices: " + library_->text_of(code));
    library_.reset();
    return;
  }
  bool is_lost = false;
  const auto complain = [&](const Part& part, Code code) {
    notes->emplace_back("nvml-device", part.name + " cannot be read: " + library_->text_of(code));
    is_lost |= code == kUninitialized || code == kGpuIsLost;
  };
  for (unsigned i = 0; i < std::min<unsigned>(count, kDevicesMax); ++i) {
    Part whole{nullptr, "device " + std::to_string(i)};
    if (const Code code = library_->get_handle(i, &whole.handle); code != kSuccess) {
      complain(whole, code);
      continue;
    }
    for (const Part& part : library_->parts_of(whole)) {
      Device device;
      if (const Code code = read(part.handle, &device); code != kSuccess) {
        complain(part, code);
      } else if (!is_possible(device)) {
        notes->emplace_back("nvml-device", part.name + " says what no device has");
      } else {
        find_processes(part.handle, of_backends, &device);
        devices->push_back(std::move(device));
      }
    }
  }
  if (!is_lost) return;
  library_.reset();
  try_again_ns_ = now_ns() + kStartAgain_ns;
}

int Nvml::read(void* handle, Device* device) const {
  std::array<char, 96> uuid{};
  Memory memory;
  Code code = library_->get_uuid(handle, uuid.data(), uuid.size() - 1);
  if (code == kSuccess) code = library_->get_memory(handle, &memory);
  device->uuid = uuid.data();
  device->total_bytes = memory.total;
  device->free_bytes = memory.free;
  return code;
}

void Nvml::find_processes(void* handle, const std::vector<pid_t>& of_backends, Device* device) {
  static const bool sees_all = own_namespace("pid") == std::uint64_t{0xEFFFFFFC};
  const bool is_told = library_->add_processes(handle, device);
  bool& is_proved = is_proved_[device->uuid];
  is_proved |= knows_processes(*device, of_backends, sees_all);
  device->knows_processes = is_told && is_proved;
  if (!device->knows_processes) device->processes.clear();
}

bool knows_processes(const Device& device, const std::vector<pid_t>& of_backends,
                     bool sees_all_processes) {
  const bool names_ours =
      std::any_of(device.processes.begin(), device.processes.end(), [&](const auto& process) {
        return std::find(of_backends.begin(), of_backends.end(), process.first) !=
               of_backends.end();
      });
  if (names_ours) return true;
  if (!sees_all_processes) return false;
  // Here all are named by numbers of this namespace; of what nobody is named for, little is usual.
  const std::uint64_t used = device.total_bytes - device.free_bytes;
  return !device.processes.empty() || used <= kOfDriver_bytes;
}

}  // namespace modelpool::sample
