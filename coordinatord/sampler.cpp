#include "sampler.hpp"

#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>

#include "base/duration.hpp"
#include "base/time.hpp"
#include "device_use.hpp"
#include "libexec.hpp"
#include "protocol/acquisition.hpp"
#include "protocol/members.hpp"
#include "segment/devices.hpp"
#include "trouble.hpp"

namespace modelpool::coordinator {
namespace {

constexpr const char* kProgram = "modelpool-sample";
constexpr const char* kOverride = "MODELPOOL_SAMPLE";  // a path; documented in README.md

std::string find_program() {
  const char* const path = std::getenv(kOverride);
  return path != nullptr && *path != '\0' ? path : find_own_program(kProgram);
}

constexpr std::uint64_t kEvery_ns = 2 * kSecond_ns;
constexpr std::uint64_t kSeldom_ns = 60 * kSecond_ns;
constexpr std::uint64_t kAfterChange_ns = 250 * kMillisecond_ns;
constexpr std::uint64_t kAfterChangeUnlimited_ns = 5 * kSecond_ns;
constexpr std::uint64_t kHurry_ns = 50 * kMillisecond_ns;
// Large processes take long to measure, and are held up by it: at most this part of the time.
constexpr std::uint64_t kPartOfTime = 50;
// So long it may say nothing, and the first time, when drivers start, so long.
constexpr std::uint64_t kSilent_ns = 5 * kSecond_ns;
constexpr std::uint64_t kSilentFirst_ns = 15 * kSecond_ns;
constexpr std::uint64_t kPauseFirst_ns = kSecond_ns;
constexpr std::uint64_t kPauseMax_ns = 60 * kSecond_ns;
constexpr std::uint64_t kDevicesPauseFirst_ns = 10 * kSecond_ns;
constexpr std::uint64_t kDevicesPauseMax_ns = 600 * kSecond_ns;
constexpr std::uint64_t kIdleMax_ns = 60 * kSecond_ns;
constexpr std::uint64_t kLockRetry_ns = 5 * kMillisecond_ns;
// Programs that do not die of SIGKILL: no further one is started beside so many.
constexpr std::size_t kUndeadMax = 2;
constexpr std::size_t kCausesMax = 64;
constexpr int kReadsMax = 64;  // at a time

bool has_process(const BackendView& b) { return b.live() && b.process.pid > 1 && !b.external(); }

bool is_loading(const BackendView& b) {
  return b.state.state == BackendState::kReserved || b.state.state == BackendState::kStarting;
}

bool has_text(const Snapshot& s, Setting id) { return s.settings && !s.settings->text(id).empty(); }

bool is_limited(const Snapshot& s) {
  if (!s.settings) return false;
  return s.settings->get(Setting::kMaxMemory) != 0 ||
         s.settings->get(Setting::kMinAvailable) != 0 || has_text(s, Setting::kGpuMemory) ||
         !s.devices.empty();
}

// Of what is to be measured, and how far each is.
std::uint64_t hash_of(const Snapshot& s) {
  std::uint64_t hash = 1;
  for (const BackendView& b : s.backends) {
    if (!has_process(b)) continue;
    const std::uint64_t life = std::uint64_t{b.ref.index} << 40 ^
                               std::uint64_t{b.ref.generation} << 8 ^
                               static_cast<std::uint64_t>(b.state.state);
    hash = (hash ^ life) * 0x9e3779b97f4a7c15;
  }
  return hash;
}

std::uint64_t next_pause(std::uint64_t pause_ns, std::uint64_t first_ns, std::uint64_t max_ns) {
  return std::clamp(2 * pause_ns, first_ns, max_ns);
}

std::string exit_of(const std::string& path) {
  return "; is " + escape(path) + " the one of this installation?";
}

}  // namespace

struct Sampler::Asked {
  explicit Asked(std::uint64_t id) : reader(id) {}

  AnswerReader reader;
  bool with_host = true;
  bool with_devices = false;
  std::uint64_t began_ns = 0;
  std::uint64_t heard_ns = 0;  // when it last said something
  std::uint64_t silent_max_ns = kSilent_ns;
  std::vector<DeviceUser> users;  // processes as the answer has them
};

Sampler::Sampler(std::shared_ptr<Segment> segment)
    : segment_(std::move(segment)),
      path_(find_program()),
      lines_(kSampleLineMax_bytes),
      device_use_(std::make_unique<DeviceUse>()) {}

Sampler::~Sampler() { end_program(); }

int Sampler::take_new_fd() {
  const bool is_new = std::exchange(is_new_fd_, false);
  return is_new && program_ ? program_->socket.get() : -1;
}

// --- Answers -------------------------------------------------------------------------------------

void Sampler::take() {
  if (unregistered_) {
    const SampleAnswer answer = *std::exchange(unregistered_, std::nullopt);
    const std::unique_ptr<Asked> asked = std::move(unregistered_asked_);
    finish(answer, *asked);
  }
  if (program_) read_socket();
  if (asked_ && now_ns() >= answer_due_ns()) give_up_waiting();
  std::erase_if(killed_,
                [](const ProcessHandle& process) { return process.liveness() == Liveness::kDead; });
}

void Sampler::read_socket() {
  std::array<char, 65536> chunk;
  for (int i = 0; i < kReadsMax && program_; ++i) {
    const ssize_t got =
        retry_eintr([&] { return ::read(program_->socket.get(), chunk.data(), chunk.size()); });
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) return fail("ended", std::string(kProgram) + " has ended" + exit_of(path_));
    if (auto ok = lines_.add(std::string_view(chunk.data(), static_cast<std::size_t>(got))); !ok)
      return fail("garbage", std::string(kProgram) + " said " + ok.error().text);
    while (program_) {
      const auto line = lines_.take();
      if (!line) break;
      take_line(*line);
    }
  }
}

void Sampler::take_line(std::string_view line) {
  const auto refuse = [&](const std::string& what) {
    fail("garbage",
         std::string(kProgram) + " said " + what + ", which is no answer" + exit_of(path_));
  };
  if (!asked_) return refuse("\"" + escape(line.substr(0, 80)) + "\" unasked");
  asked_->heard_ns = now_ns();
  if (auto ok = asked_->reader.add(line); !ok) return refuse(ok.error().text);
  if (!asked_->reader.answer().is_complete) return;
  const std::unique_ptr<Asked> asked = std::move(asked_);
  if (asked->with_host) took_ns_ = age_ns(now_ns(), asked->began_ns);
  pause_ns_ = 0;
  if (asked->with_devices) devices_pause_ns_ = 0;
  if (asked->with_devices) said_.erase("silent");
  for (const char* cause : {"ended", "garbage", "start"}) said_.erase(cause);
  finish(asked->reader.answer(), *asked);
}

std::uint64_t Sampler::answer_due_ns() const {
  return asked_ ? add_ns(asked_->heard_ns, asked_->silent_max_ns) : kNever_ns;
}

// It hangs, most likely in a driver. What it has said of the host is good all the same.
void Sampler::give_up_waiting() {
  const std::unique_ptr<Asked> asked = std::move(asked_);
  const bool in_driver = asked->reader.answer().has_host;
  if (in_driver) {
    finish(asked->reader.answer(), *asked);
    devices_pause_ns_ = next_pause(devices_pause_ns_, kDevicesPauseFirst_ns, kDevicesPauseMax_ns);
    devices_retry_ns_ = now_ns() + devices_pause_ns_;
    say_once("silent", std::string(kProgram) + " has said nothing for " +
                           format_duration(asked->silent_max_ns) +
                           " while it asked the drivers of devices: it is killed, devices keep "
                           "what was last measured, and are tried again later");
    return end_program();
  }
  fail("silent", std::string(kProgram) + " has said nothing for " +
                     format_duration(asked->silent_max_ns) +
                     ": it is killed, and started again later");
}

void Sampler::finish(const SampleAnswer& answer, const Asked& asked) {
  for (const auto& [cause, text] : answer.notes)
    say_once("note " + cause, std::string(kProgram) + ": " + text);
  if (!register_devices(answer)) {
    unregistered_ = answer;
    unregistered_asked_ = std::make_unique<Asked>(asked);
    return;
  }
  Sample sample;
  sample.taken_ns = asked.began_ns;
  for (const SampleAnswer::Device& device : answer.devices) {
    const auto position = find_device(*segment_, device.uuid);
    if (!position) continue;  // there are too many
    sample.devices.push_back({*position, device.total_bytes, device.free_bytes,
                              device.knows_processes, device.processes});
  }
  std::vector<DeviceUser> users = asked.users;
  for (const SampleAnswer::Backend& backend : answer.backends) {
    const auto user = std::find_if(users.begin(), users.end(),
                                   [&](const DeviceUser& one) { return one.ref == backend.ref; });
    if (user == users.end()) continue;  // nobody asked
    user->processes = backend.processes;
    if (backend.host_bytes)
      sample.backends.emplace_back(backend.ref, Bytes{*backend.host_bytes, {}});
  }
  Bytes foreign = segment_->coordinator().foreign.load().bytes;
  if (!sample.devices.empty()) {
    const DeviceUse::Told told = device_use_->tell(sample.devices, users);
    for (auto& [ref, bytes] : sample.backends) {
      for (const auto& [of, devices] : told.backends) {
        if (of == ref) bytes.device = devices.device;
      }
    }
    for (const DeviceSample& device : sample.devices)
      foreign.device[device.device] = told.foreign.device[device.device];
  }
  publish(sample, foreign);
  latest_ = std::move(sample);
}

bool Sampler::register_devices(const SampleAnswer& answer) {
  std::optional<LockGuard> lock;
  const SampleAnswer::Device* left_out = nullptr;
  for (const SampleAnswer::Device& device : answer.devices) {
    if (find_device(*segment_, device.uuid)) continue;
    if (!lock) {
      auto locked = lock_for(segment_->lock(), 0);
      if (!locked) return false;
      lock.emplace(std::move(*locked));
    }
    if (!register_device(*segment_, *lock, device.uuid)) left_out = &device;
  }
  lock.reset();
  if (left_out != nullptr) {
    say_once("devices", "device " + escape(left_out->uuid) + " is not looked at: the pool knows " +
                            std::to_string(kDevicesMax) + " already, " +
                            "those that were named by mistake among them; a new pool forgets them");
  }
  return true;
}

// Of the lives that were measured, if they go on: only this thread ends and begins them.
void Sampler::publish(const Sample& sample, const Bytes& foreign) {
  bool has_room = false;  // somebody may fit now who did not
  for (auto [ref, bytes] : sample.backends) {
    const StateWord state = load_state(*segment_, ref.index);
    const bool is_there = state.generation == ref.generation && is_live(state.state) &&
                          state.state != BackendState::kStopping;
    if (!is_there) continue;
    BackendRecord& record = segment_->backend(ref.index);
    // What was not measured now keeps what it was.
    const Bytes before = record.measured.load();
    for (std::uint32_t i = 0; i < kDevicesMax; ++i) {
      const bool is_measured =
          std::any_of(sample.devices.begin(), sample.devices.end(),
                      [i](const DeviceSample& device) { return device.device == i; });
      if (!is_measured) bytes.device[i] = before.device[i];
    }
    // While it loads it has not taken all that it will: nobody is to count on that (outlook.cpp).
    const std::uint64_t ready_ns = record.ready_ns.load(std::memory_order_acquire);
    const bool is_loaded =
        state.state == BackendState::kReady || state.state == BackendState::kEvicting;
    if (is_loaded && ready_ns != 0 && sample.taken_ns >= ready_ns) {
      const Bytes peak = record.peak.load();
      has_room |= peak == Bytes{};
      record.peak.store(larger_of(peak, bytes));
    }
    record.measured.store(bytes);
  }
  for (const DeviceSample& device : sample.devices)
    store_device_memory(*segment_, device.device, {device.total_bytes, device.free_bytes});
  if (!sample.devices.empty()) {
    // One that the answer lacks is gone: nothing is known of it any more.
    for (std::uint32_t i = 0; i < kDevicesMax; ++i) {
      const bool is_there =
          std::any_of(sample.devices.begin(), sample.devices.end(),
                      [i](const DeviceSample& device) { return device.device == i; });
      if (!is_there && load_device_memory(*segment_, i).total_bytes != 0)
        store_device_memory(*segment_, i, {});
    }
    const ForeignUse last = segment_->coordinator().foreign.load();
    for (std::size_t i = 0; i < kDevicesMax; ++i)
      has_room |= foreign.device[i] < last.bytes.device[i];
    segment_->coordinator().foreign.publish({sample.taken_ns, foreign});
  }
  if (has_room) wake_line(*segment_);
}

// --- The program ---------------------------------------------------------------------------------

void Sampler::say_once(const std::string& cause, const std::string& text) {
  if (said_.size() >= kCausesMax || !said_.insert(cause).second) return;
  warn_of("sample " + cause, text);
}

void Sampler::fail(const std::string& cause, const std::string& text) {
  say_once(cause, text);
  pause_ns_ = next_pause(pause_ns_, kPauseFirst_ns, kPauseMax_ns);
  retry_ns_ = now_ns() + pause_ns_;
  end_program();
}

void Sampler::end_program() {
  asked_.reset();
  lines_.clear();
  if (!program_) return;
  static_cast<void>(program_->process.signal(SIGKILL));
  if (program_->process.liveness() != Liveness::kDead)
    killed_.push_back(std::move(program_->process));
  program_.reset();
  is_new_fd_ = false;
}

bool Sampler::start_program() {
  if (now_ns() < retry_ns_ || killed_.size() >= kUndeadMax) return false;
  auto program = HelperProgram::start(path_, SOCK_STREAM, true);
  if (!program) {
    fail("start", program.error().text + "; backends are taken for as large as they are declared");
    return false;
  }
  program_ = std::move(*program);
  is_new_fd_ = true;
  return true;
}

// --- Requests ------------------------------------------------------------------------------------

std::uint64_t Sampler::due_ns(const Snapshot& snapshot) {
  const std::uint64_t now = now_ns();
  const bool any = std::any_of(snapshot.backends.begin(), snapshot.backends.end(), has_process);
  const bool counts_devices = has_text(snapshot, Setting::kGpuMemory);
  if (!any && !counts_devices) {
    if (idle_since_ns_ == 0) idle_since_ns_ = now;
    return kNever_ns;
  }
  idle_since_ns_ = 0;
  if (hash_of(snapshot) == backends_hash_) {
    changed_ns_ = 0;
  } else if (changed_ns_ == 0) {
    changed_ns_ = now;
  }
  if (asked_ns_ == 0 && counts_devices) return now;
  const bool limited = is_limited(snapshot);
  const bool often = limited && (any || !snapshot.waiters.empty());
  const std::uint64_t rest_ns = took_ns_ * kPartOfTime;
  std::uint64_t due = add_ns(host_asked_ns_, std::max(often ? kEvery_ns : kSeldom_ns, rest_ns));
  if (host_asked_ns_ == 0) due = kNever_ns;
  if (changed_ns_ != 0) {
    const std::uint64_t after = limited ? kAfterChange_ns : kAfterChangeUnlimited_ns;
    due = std::min(due, add_ns(std::max(asked_ns_, limited ? 0 : changed_ns_), after));
  }
  if (now < hurry_until_ns_) due = std::min(due, asked_ns_ + kHurry_ns);
  return due;
}

void Sampler::look_after(const Snapshot& snapshot) {
  const std::uint64_t due = due_ns(snapshot);
  const std::uint64_t now = now_ns();
  if (unregistered_) {
    look_again_ns_ = now + kLockRetry_ns;
    return;
  }
  if (asked_) {
    look_again_ns_ = answer_due_ns();
    return;
  }
  if (due == kNever_ns) {
    const std::uint64_t end = add_ns(idle_since_ns_, kIdleMax_ns);
    if (program_ && now >= end) end_program();
    look_again_ns_ = program_ ? end : kNever_ns;
    return;
  }
  look_again_ns_ = program_ ? due : std::max(due, retry_ns_);
  if (now < look_again_ns_) return;
  if (!program_ && !start_program()) {
    look_again_ns_ = std::max(retry_ns_, now + kSecond_ns);
    return;
  }
  ask(snapshot);
  look_again_ns_ = asked_ ? answer_due_ns() : std::max(retry_ns_, now + kSecond_ns);
}

SampleRequest Sampler::make_request(const Snapshot& snapshot, Asked* asked) {
  SampleRequest request;
  for (const BackendView& b : snapshot.backends) {
    if (!has_process(b)) continue;
    const Target target = target_of(*segment_, b);
    SampleRequest::Backend backend{b.ref, target.group, {b.process}};
    backend.processes.insert(backend.processes.end(), target.known.begin(), target.known.end());
    request.backends.push_back(std::move(backend));
    DeviceUser user;
    user.ref = b.ref;
    user.is_loading = is_loading(b);
    user.is_ending = b.state.state == BackendState::kStopping;
    user.before = b.measured;
    user.assumed = b.device_size_unknown ? b.declared : larger_of(b.declared, b.expected);
    asked->users.push_back(std::move(user));
  }
  return request;
}

void Sampler::ask(const Snapshot& snapshot) {
  auto asked = std::make_unique<Asked>(++requests_);
  SampleRequest request = make_request(snapshot, asked.get());
  request.id = requests_;
  // One that a driver holds is enough.
  request.with_devices = killed_.empty() && now_ns() >= devices_retry_ns_;
  const bool is_hurried = now_ns() < hurry_until_ns_ && request.with_devices;
  request.with_host =
      !is_hurried || now_ns() >= host_asked_ns_ + std::max(kEvery_ns, took_ns_ * kPartOfTime);
  asked->with_host = request.with_host;
  asked->with_devices = request.with_devices;
  asked->began_ns = asked->heard_ns = now_ns();
  if (is_new_fd_) asked->silent_max_ns = kSilentFirst_ns;
  const std::string text = request_text(request);
  const ssize_t written = retry_eintr([&] {
    return ::send(program_->socket.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  });
  if (written != static_cast<ssize_t>(text.size()))
    return fail("ended", std::string(kProgram) + " takes no request" + exit_of(path_));
  asked_ns_ = asked->began_ns;
  if (request.with_host) host_asked_ns_ = asked_ns_;
  asked_ = std::move(asked);
  backends_hash_ = hash_of(snapshot);
  changed_ns_ = 0;
}

}  // namespace modelpool::coordinator
