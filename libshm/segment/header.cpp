#include "segment/header.hpp"

#include <fcntl.h>
#include <gnu/libc-version.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/interprocess/exceptions.hpp>
#include <boost/interprocess/mapped_region.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/host.hpp"
#include "base/shortage.hpp"
#include "base/size.hpp"
#include "base/text.hpp"
#include "base/time.hpp"
#include "segment/mappable.hpp"
#include "segment/meter_infos.hpp"
#include "segment/mutex.hpp"
#include "segment/settings_image.hpp"

namespace modelpool {
namespace {

std::uint64_t round_up(std::uint64_t bytes, std::uint64_t to) { return (bytes + to - 1) / to * to; }

std::uint64_t fingerprint() {
  const std::uint64_t facts[] = {
      sizeof(Header),
      sizeof(LockRecord),
      sizeof(LineRecord),
      sizeof(SettingsRecord),
      sizeof(CoordinatorRecord),
      sizeof(ModelRecord),
      sizeof(WorkerRecord),
      sizeof(BackendRecord),
      sizeof(WaiterRecord),
      sizeof(EventRecord),
      sizeof(LeaseRecord),
      sizeof(pthread_mutex_t),
      sizeof(SettingsHead),
      sizeof(StopRecord),
      sizeof(EventData),
      sizeof(LoadHistory),
      sizeof(void*),
      offsetof(LockRecord, holder_pid),
      offsetof(CoordinatorRecord, wanted),
      offsetof(CoordinatorRecord, doorbell),
      offsetof(WorkerRecord, leases_high),
      offsetof(BackendRecord, model),
      offsetof(BackendRecord, stop),
      offsetof(WaiterRecord, wake),
      sizeof(GivenSettings),
      offsetof(CoordinatorRecord, horizon_ns),
      offsetof(CoordinatorRecord, event_bell),
      offsetof(CoordinatorRecord, last_scan_ns),
      offsetof(CoordinatorRecord, next_event),
      offsetof(CoordinatorRecord, counters),
      offsetof(WorkerRecord, wake),
      offsetof(WorkerRecord, command),
      offsetof(BackendRecord, control),
      offsetof(BackendRecord, exit_status),
      offsetof(BackendRecord, model_hash),
      offsetof(BackendRecord, address),
      offsetof(BackendRecord, given),
      offsetof(BackendRecord, noted),
      offsetof(BackendRecord, drain_failed_ns),
      offsetof(WaiterRecord, arrival),
      offsetof(WaiterRecord, looked_ns),
      offsetof(WaiterRecord, model_hash),
      offsetof(WaiterRecord, model),
      offsetof(WaiterRecord, need),
      offsetof(WaiterRecord, room),
      offsetof(LeaseRecord, start_ns),
      offsetof(LeaseRecord, tag),
      offsetof(LeaseRecord, flags),
      offsetof(LeaseRecord, cancel_word),
      offsetof(StopRecord, decided_ns),
      offsetof(StopRecord, for_arrival),
      offsetof(StopRecord, text),
      offsetof(StopRecord, ended_ns),
      offsetof(EventData, count),
      offsetof(EventData, away_ns),
      offsetof(EventData, model),
      offsetof(EventData, text),
      offsetof(LoadHistory, error),
      sizeof(RuleRecord),
      sizeof(EntryRecord),
      kRoomOfRule_bytes,
      offsetof(SettingsHead, given),
      offsetof(SettingsHead, judge),
      offsetof(SettingsHead, value),
      offsetof(SettingsHead, name),
      offsetof(SettingsHead, config_path),
      offsetof(LoadHistory, peak),
      offsetof(CoordinatorRecord, last_progress_ns),
      offsetof(CoordinatorRecord, pressure_until_ns),
      offsetof(CoordinatorRecord, features),
      offsetof(CoordinatorRecord, foreign),
      offsetof(WorkerRecord, cancels),
      offsetof(BackendRecord, holder),
      offsetof(BackendRecord, keep_alive),
      offsetof(BackendRecord, permit),
      offsetof(BackendRecord, meter_model),
      offsetof(BackendRecord, log),
      offsetof(BackendRecord, devices),
      offsetof(BackendRecord, expected),
      offsetof(BackendRecord, declared),
      offsetof(BackendRecord, parallel),
      offsetof(BackendRecord, measured),
      offsetof(BackendRecord, peak),
      offsetof(BackendRecord, probe_failures),
      sizeof(UsedCell),
      sizeof(Need),
      sizeof(ForeignUse),
      sizeof(DeviceRecord),
      sizeof(MeterInfoRecord),
      offsetof(MeterInfo, bound),
      offsetof(MeterInfo, name),
      sizeof(MeterModelRecord),
      sizeof(WorkerMeters),
      sizeof(JudgeMeters),
      offsetof(JudgeMeters, cell),
      kDevicesMax,
      kMetersMax,
      kMeterModelsMax,
      kEventKindCapacity,
      offsetof(CoordinatorRecord, last_scan_ticks),
      offsetof(BackendRecord, alive_ticks),
      offsetof(BackendRecord, left),
      sizeof(LeftRecord),
      offsetof(LeftRecord, named),
      offsetof(BackendRecord, known),
      sizeof(KnownRecord),
      offsetof(KnownRecord, members),
  };
  return hash_name({reinterpret_cast<const char*>(facts), sizeof facts}) ^ hash_name("glibc");
}

std::uint64_t settings_bytes(const Capacities& c) {
  return sizeof(SettingsRecord) + 2 * settings_copy_bytes(c);
}

// The tables of a pool of these capacities, in order, each on a page of its own.
std::uint64_t place_tables(const Capacities& c, Tables* tables) {
  const std::uint64_t row = round_up(c.backends * sizeof(UsedCell), kCacheLine_bytes);
  const TableInfo sizes[kTableCount] = {
      {0, sizeof(LockRecord), 1},
      {0, sizeof(LineRecord), 1},
      {0, settings_bytes(c), 1},
      {0, sizeof(CoordinatorRecord), 1},
      {0, sizeof(ModelRecord), c.models},
      {0, sizeof(WorkerRecord), c.workers},
      {0, sizeof(BackendRecord), c.backends},
      {0, sizeof(WaiterRecord), c.waiters},
      {0, sizeof(EventRecord), c.events},
      {0, row, std::uint64_t{c.workers} + 1},
      {0, sizeof(LeaseRecord), std::uint64_t{c.workers} * c.leases},
      {0, sizeof(DeviceRecord), kDevicesMax},
      {0, sizeof(MeterInfoRecord), kMetersMax},
      {0, sizeof(MeterModelRecord), kMeterModelsMax},
      {0, sizeof(WorkerMeters), c.workers},
      {0, sizeof(JudgeMeters), 1},
  };
  std::uint64_t offset = kPage_bytes;
  for (std::size_t i = 0; i < kTableCount; ++i) {
    (*tables)[i] = sizes[i];
    (*tables)[i].offset = offset;
    offset = round_up(offset + sizes[i].stride * sizes[i].count, kPage_bytes);
  }
  return offset;
}

// A file beyond the limit is no error of the call but a signal, SIGXFSZ, which ends the
// application.
Result<> check_file_size_limit(std::uint64_t bytes, const std::string& pool) {
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur >= bytes) return {};
  return fail(Errc::kPermission, "unable to create pool " + pool + ": its segment has " +
                                     format_size(bytes) + ", and a file of this process at most " +
                                     format_size(limit.rlim_cur) +
                                     "; raise that with ulimit -f, or LimitFSIZE= in its unit, or "
                                     "choose smaller capacities");
}

}  // namespace

std::uint32_t rules_capacity(const Header& header) {
  const std::uint64_t bytes = header.tables[static_cast<std::size_t>(Table::kSettingsBlock)].stride;
  const std::uint64_t least = settings_bytes(Capacities{.rules = 0});
  return bytes < least ? 0 : static_cast<std::uint32_t>((bytes - least) / (2 * kRoomOfRule_bytes));
}

Result<> check_capacities(const Capacities& c) {
  const auto in_range = [](std::uint32_t n, std::uint32_t max) { return n >= 1 && n <= max; };
  if (in_range(c.backends, kBackendsMax) && in_range(c.workers, kWorkersMax) &&
      in_range(c.leases, 65536) && in_range(c.waiters, 65536) && in_range(c.events, 1u << 20) &&
      in_range(c.models, 65536) && in_range(c.rules, 65536)) {
    return {};
  }
  return fail(Errc::kInvalid,
              "unable to create a pool: capacities must be 1 to 4095 backends and workers, 1 to "
              "65536 leases, waiters, models and rules, 1 to 1048576 events");
}

Result<> build_segment(int fd, const SegmentPlan& plan) {
  const auto host = read_host_identity();
  if (!host) return fail(host.error());
  const std::size_t settings_words = settings_copy_bytes(plan.capacities) / sizeof(Word);
  const Settings none;
  auto image =
      SettingsImage::make(plan.settings != nullptr ? *plan.settings : none, settings_words);
  if (!image) return fail(image.error());
  Header header;
  header.magic = kSegmentMagic;
  header.layout_version = kLayoutVersion;
  header.header_bytes = sizeof(Header);
  header.total_bytes = place_tables(plan.capacities, &header.tables);
  header.abi_fingerprint = fingerprint();
  header.boot_id[0] = host->boot_id[0];
  header.boot_id[1] = host->boot_id[1];
  header.pid_namespace = host->pid_namespace;
  header.time_namespace = host->time_namespace;
  if (getrandom(header.uuid, sizeof header.uuid, 0) != sizeof header.uuid) {
    return fail_errno(errno, "draw a random number for pool " + plan.name);
  }
  header.created_ns = wall_clock_ns();
  header.uid = geteuid();
  header.mutex_bytes = sizeof(pthread_mutex_t);
  plan.name.copy(header.name.data(), header.name.size() - 1);
  std::snprintf(header.libc.data(), header.libc.size(), "glibc %s", gnu_get_libc_version());

  if (auto ok = check_file_size_limit(header.total_bytes, plan.name); !ok) return ok;
  int error;
  do {
    error = posix_fallocate(fd, 0, static_cast<off_t>(header.total_bytes));
  } while (error == EINTR);
  if (error != 0) {
    return fail_errno(error, "create pool " + plan.name,
                      "it needs " + format_size(header.total_bytes) +
                          " on its tmpfs; free some, or choose smaller capacities");
  }
  namespace bi = boost::interprocess;
  try {
    const bi::mapped_region region(MappableFile{fd}, bi::read_write, 0, header.total_bytes);
    auto* base = static_cast<std::byte*>(region.get_address());
    std::memcpy(base, &header, sizeof header);
    if (plan.home.size() < kHomeCapacity_bytes)
      reinterpret_cast<HomeRecord*>(base + kHomeOffset)->store(plan.home);
    const auto offset = [&](Table t) { return header.tables[static_cast<std::size_t>(t)].offset; };
    auto* lock = reinterpret_cast<LockRecord*>(base + offset(Table::kLock));
    if (auto made = init_mutex(*lock); !made) return made;
    describe_meters(reinterpret_cast<MeterInfoRecord*>(base + offset(Table::kMeterInfos)));
    if (plan.settings != nullptr) {
      auto* settings = reinterpret_cast<SettingsRecord*>(base + offset(Table::kSettingsBlock));
      image->copy_to(reinterpret_cast<Word*>(settings + 1) + settings_words);
      settings->generation.store(1, std::memory_order_seq_cst);
    }
  } catch (const bi::interprocess_exception& e) {
    error = e.get_native_error();
    return fail_errno(error, "map pool " + plan.name, shortage_advice(Needs::kDescriptor, error));
  }
  return {};
}

Result<Header> read_header(int fd, const std::string& path, const std::string& advice) {
  const auto refuse = [&](const std::string& why) {
    return fail(Errc::kIncompatible, "unable to use " + escape(path) + ": " + why);
  };
  Header header;
  const ssize_t got = pread(fd, &header, sizeof header, 0);
  if (got < 0) return fail_errno(errno, "read " + escape(path));
  struct stat info;
  if (fstat(fd, &info) != 0) return fail_errno(errno, "examine " + escape(path));
  if (got < static_cast<ssize_t>(offsetof(Header, abi_fingerprint)) ||
      header.magic != kSegmentMagic) {
    return refuse(std::string(kNoSegment));
  }
  if (header.layout_version != kLayoutVersion) {
    return refuse("it has layout version " + std::to_string(header.layout_version) +
                  ", this program knows " + std::to_string(kLayoutVersion) + "; " + advice);
  }
  if (got < static_cast<ssize_t>(sizeof header) ||
      static_cast<std::uint64_t>(info.st_size) < header.total_bytes) {
    return refuse("it is too short (" + std::to_string(info.st_size) + " of " +
                  std::to_string(header.total_bytes) + " bytes)");
  }
  if (header.abi_fingerprint != fingerprint()) {
    header.libc.back() = 0;
    return refuse("it was created by a build with another memory layout (" +
                  escape(header.libc.data()) + "); use one build everywhere, or " + advice);
  }
  Capacities c;
  const auto count = [&](Table t) {
    return static_cast<std::uint32_t>(header.tables[static_cast<std::size_t>(t)].count);
  };
  c.models = count(Table::kModels);
  c.workers = count(Table::kWorkers);
  c.backends = count(Table::kBackends);
  c.waiters = count(Table::kWaiters);
  c.events = count(Table::kEvents);
  c.leases = c.workers == 0 ? 0 : count(Table::kLeases) / c.workers;
  c.rules = rules_capacity(header);
  Tables expected{};
  if (!check_capacities(c) || place_tables(c, &expected) != header.total_bytes ||
      expected != header.tables) {
    return refuse("its table of contents is damaged");
  }
  header.name.back() = 0;
  header.libc.back() = 0;
  return header;
}

Result<> check_host(const Header& header, const std::string& path) {
  const auto host = read_host_identity();
  if (!host) return fail(host.error());
  if (header.pid_namespace != host->pid_namespace ||
      header.time_namespace != host->time_namespace) {
    const bool pid = header.pid_namespace != host->pid_namespace;
    return fail(Errc::kIncompatible,
                "unable to use " + escape(path) + ": it belongs to another " +
                    (pid ? "PID" : "time") + " namespace (" +
                    std::to_string(pid ? header.pid_namespace : header.time_namespace) + ", here " +
                    std::to_string(pid ? host->pid_namespace : host->time_namespace) +
                    "); run all its processes in one container, or share that namespace");
  }
  return {};
}

Result<bool> is_of_this_boot(const Header& header) {
  const auto host = read_host_identity();
  if (!host) return fail(host.error());
  return header.boot_id[0] == host->boot_id[0] && header.boot_id[1] == host->boot_id[1];
}

bool is_segment(int fd) {
  std::uint64_t magic = 0;
  return pread(fd, &magic, sizeof magic, 0) == sizeof magic && magic == kSegmentMagic;
}

std::uint32_t layout_of(int fd) {
  std::uint32_t version = 0;
  const bool read = pread(fd, &version, sizeof version, offsetof(Header, layout_version)) ==
                    static_cast<ssize_t>(sizeof version);
  return read && is_segment(fd) ? version : 0;
}

std::string read_home(int fd) {
  std::array<char, kHomeCapacity_bytes> home{};
  if (pread(fd, home.data(), home.size(), kHomeOffset) != static_cast<ssize_t>(home.size()))
    return {};
  return std::string(field_text(home));
}

}  // namespace modelpool
