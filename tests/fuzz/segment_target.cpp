#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>

#include "common.hpp"
#include "judge/decide.hpp"
#include "pool/inside.hpp"
#include "protocol/acquisition.hpp"
#include "protocol/check.hpp"
#include "protocol/events.hpp"
#include "protocol/histories.hpp"
#include "protocol/slots.hpp"
#include "protocol/snapshot.hpp"
#include "segment/devices.hpp"
#include "segment/settings_block.hpp"
#include "targets.hpp"

namespace modelpool::fuzz {
namespace {

[[noreturn]] void broken(const std::string& what) {
  std::fprintf(stderr, "property does not hold: %s\n", what.c_str());
  std::abort();
}

template <class T>
T must(Result<T> result) {
  if (!result) broken(result.error().text);
  return std::move(*result);
}

// A small pool in which everything stands: backends, leases, a waiter, histories, rules, events.
std::vector<std::uint8_t> make_image() {
  // As a test's: the next one removes it if this is killed.
  std::string dir = "/dev/shm/modelpool-test-" + std::to_string(getpid()) + "-XXXXXX";
  if (mkdtemp(dir.data()) == nullptr) broken("no directory");
  Settings settings;
  settings.pool.set(Setting::kMaxBackends, 3);
  settings.pool.set(Setting::kIdleTimeout, kSecond_ns);
  settings.pool.set(Setting::kBusyTimeout, kSecond_ns);
  settings.pool.set({static_cast<Setting>(50), {OriginKind::kSet, 0}, 0, "a text", true});
  settings.foreign = {{static_cast<Setting>(50), "of_a_newer_program", true, false}};
  settings.config_path = "/etc/pool.toml";
  settings.rules = {{"m*", {}}, {"[a-c]?", {}}, {"m1", {}}, {"m1", {}}, {"m2", {}}};
  for (Rule& rule : settings.rules) {
    rule.overrides.set(Setting::kStallTimeout, kSecond_ns, {OriginKind::kConfig, 7});
    rule.overrides.set({static_cast<Setting>(51), {OriginKind::kConfig, 8}, 0, "GPU-1", true});
  }
  PoolOptions options;
  options.dir = dir;
  options.settings = &settings;
  options.capacities = {
      .backends = 6, .workers = 3, .leases = 4, .waiters = 4, .events = 8, .models = 4, .rules = 4};
  Pool pool = must(Pool::attach("fuzz", options));
  std::vector<Lease> leases;
  for (const char* model : {"m1", "m2"}) {
    auto granted = must(pool.acquire(model, std::chrono::seconds(1)));
    ReadyOptions ready;
    ready.external = true;
    leases.push_back(must(std::get<LoadTicket>(granted).ready("127.0.0.1:1", ready)));
  }
  auto loading = must(pool.acquire("m3", std::chrono::seconds(1)));
  if (auto lock = segment_of(pool).lock_structure()) {
    register_device(segment_of(pool), *lock, "GPU-1");
    BackendRecord& record = segment_of(pool).backend(0);
    record.devices.store(1);
    record.permit.store(PermitWord{1000, 1}.pack());
    write_history(segment_of(pool), *lock, "m1", LoadHistory{});
  }
  auto segment = must(Segment::open_read_only("fuzz", dir));
  std::vector<std::uint8_t> image(segment->header().total_bytes);
  const int fd = open(segment->path().c_str(), O_RDONLY | O_CLOEXEC);
  if (pread(fd, image.data(), image.size(), 0) != static_cast<ssize_t>(image.size()))
    broken("no image");
  close(fd);
  std::filesystem::remove_all(dir);
  return image;
}

Header header_of(const std::vector<std::uint8_t>& image) {
  Header header;
  std::memcpy(static_cast<void*>(&header), image.data(), sizeof header);
  return header;
}

enum class Write : std::uint8_t { kWord, kHalf, kByte, kAdd, kFlip, kText, kKnown };
constexpr std::uint8_t kWrites = 7;

// Values that mean something somewhere.
std::uint64_t known(std::uint64_t which) {
  constexpr std::uint64_t kOne = 1;
  const std::array<std::uint64_t, 16> values{0,
                                             1,
                                             2,
                                             kNever_ns,
                                             kNever_ns - 1,
                                             kOne << 63,
                                             kOne << 32,
                                             0xffffffff,
                                             now_ns(),
                                             now_ns() - kSecond_ns,
                                             now_ns() + kSecond_ns,
                                             static_cast<std::uint64_t>(getpid()),
                                             kOne << 31,
                                             kOne << 56,
                                             StateWord{1, 1, BackendState::kEvicting}.pack(),
                                             LeaseWord{1, 0, 1}.pack()};
  return values[which % values.size()];
}

void apply(const Patch& patch, const Header& header, std::vector<std::uint8_t>* image) {
  const std::size_t table = patch.table % (kTableCount + 1);
  std::uint64_t at = 0;
  std::uint64_t size = sizeof(Header);
  if (table < kTableCount) {
    const TableInfo& info = header.tables[table];
    at = info.offset + info.stride * (patch.row % info.count);
    size = info.stride;
  }
  const std::uint64_t offset = patch.offset % size;
  const auto put = [&](std::uint64_t value, std::uint64_t bytes) {
    const std::uint64_t aligned = offset / bytes * bytes;
    std::memcpy(image->data() + at + aligned, &value, std::min(bytes, size - aligned));
  };
  std::uint64_t old = 0;
  std::memcpy(&old, image->data() + at + offset / 8 * 8, 8);
  switch (static_cast<Write>(patch.how % kWrites)) {
    case Write::kWord:
      return put(patch.value, 8);
    case Write::kHalf:
      return put(patch.value, 4);
    case Write::kByte:
      return put(patch.value, 1);
    case Write::kAdd:
      return put(old + patch.value, 8);
    case Write::kFlip:
      return put(old ^ std::uint64_t{1} << (patch.value % 64), 8);
    case Write::kKnown:
      return put(known(patch.value), 8);
    case Write::kText:  // the value's bytes again and again
      for (std::uint64_t i = 0; offset + i < size && i < patch.value >> 56; ++i) {
        (*image)[at + offset + i] = static_cast<std::uint8_t>(patch.value >> (i % 7 * 8));
      }
  }
}

// What poolctl prints goes to a file in memory, and is looked at.
class Output {
 public:
  Output() : file_(memfd_create("output", MFD_CLOEXEC)) {}
  ~Output() { close(file_); }

  std::string of(const std::function<void()>& print) {
    std::fflush(stdout);
    const int before = dup(STDOUT_FILENO);
    if (ftruncate(file_, 0) != 0 || lseek(file_, 0, SEEK_SET) != 0) broken("no output file");
    dup2(file_, STDOUT_FILENO);
    print();
    std::fflush(stdout);
    dup2(before, STDOUT_FILENO);
    close(before);
    std::string text(static_cast<std::size_t>(lseek(file_, 0, SEEK_END)), 0);
    if (pread(file_, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
      broken("no output");
    return text;
  }

 private:
  int file_;
};

constexpr std::array kCommands{"status",  "list", "workers", "leases", "waiters", "events",
                               "explain", "dump", "check",   "set",    "doctor"};

void run_poolctl(std::size_t which, bool json, const std::string& path) {
  namespace ctl = poolctl;
  ctl::Context context;
  context.json = json;
  CLI::App app;
  ctl::add_status(app, context);
  ctl::add_list(app, context);
  ctl::add_workers(app, context);
  ctl::add_metrics(app, context);
  ctl::add_leases(app, context);
  ctl::add_waiters(app, context);
  ctl::add_events(app, context);
  ctl::add_explain(app, context);
  ctl::add_dump(app, context);
  ctl::add_check(app, context);
  ctl::add_doctor(app, context);
  ctl::add_set(app, context);
  const std::string command = kCommands[which % kCommands.size()];
  std::vector<std::string> words{path, "--file"};  // in reverse, as CLI11 takes them
  if (command == "explain") words.emplace_back("m1");
  words.push_back(command);
  app.parse(words);
  context.chosen();
}

void check_printed(const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    if (const std::string line = text.substr(at, end - at); !is_printable_utf8(line)) {
      broken("prints what is not printable: " + escape(line));
    }
    at = end + 1;
  }
}

void judge(const Snapshot& snapshot, std::uint8_t flags) {
  coordinator::Facts facts;
  facts.stamp_resolution_ns = kMillisecond_ns;
  facts.epoch = 1;
  facts.ending = flags & 1;
  for (const BackendView& b : snapshot.backends) {
    if (flags & 2) facts.exited.push_back(b.ref);
    if (flags & 4) facts.vanished.push_back(b.ref);
    if (flags & 8) facts.unreaped.emplace_back(b.ref, snapshot.now_ns + kSecond_ns);
  }
  for (const WorkerView& w : snapshot.workers) {
    if (flags & 16) facts.dead_workers.push_back(w.ref);
  }
  const coordinator::Decision decision = coordinator::decide(snapshot, facts);
  if (decision.wake_ns <= snapshot.now_ns) broken("decide wakes in the past");
  for (const coordinator::Action& action : decision.actions) {
    const bool of_backend = action.kind != coordinator::ActionKind::kReapWorker &&
                            action.kind != coordinator::ActionKind::kClearWaiter;
    if (of_backend && snapshot.find(action.backend) == nullptr)
      broken("an action names no backend");
    const bool on_signal = action.kind == coordinator::ActionKind::kSignal;
    if (on_signal && (action.signal < 1 || action.signal > 64)) broken("a signal that is none");
  }
}

// The files a process of the fuzzer uses again and again.
struct Bench {
  Bench() : file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {}
  ~Bench() { unlink(path.c_str()); }

  std::vector<std::uint8_t> image = make_image();
  Header header = header_of(image);
  // Not a file in memory: a segment is not opened through a link.
  std::string path =
      std::filesystem::temp_directory_path() / ("modelpool-fuzz-" + std::to_string(getpid()));
  int file;
  Output output;
};

}  // namespace

bool segment(Bytes bytes) {
  static Bench bench;
  if (bytes.size() < 2) return false;
  std::vector<std::uint8_t> image = bench.image;
  for (std::size_t at = 2; at + sizeof(Patch) <= bytes.size(); at += sizeof(Patch)) {
    Patch patch;
    std::memcpy(&patch, bytes.data() + at, sizeof patch);
    apply(patch, bench.header, &image);
  }
  if (pwrite(bench.file, image.data(), image.size(), 0) != static_cast<ssize_t>(image.size()))
    broken("no segment file");

  const auto opened = Segment::open_file(bench.path);
  if (!opened) {
    check_printed(opened.error().text);
    return false;
  }
  const Segment& s = **opened;
  SnapshotReader reader(*opened);
  const Snapshot& snapshot = reader.read();
  static_cast<void>(check_invariants(snapshot, true));
  judge(snapshot, bytes[1]);
  static_cast<void>(reader.read());  // with what it remembers of the first
  static_cast<void>(read_histories(s));
  static_cast<void>(read_events(s, bytes[1]));
  static_cast<void>(find_backend(s, "m1"));
  static_cast<void>(find_history(s, "m1"));
  for (const MeterSeries& sample : read_meters(s)) {
    check_printed(sample.name + sample.unit + sample.help);
    for (const auto& [label, value] : sample.labels) check_printed(label + value);
  }
  for (const std::string& uuid : read_devices(s)) check_printed(uuid);
  static_cast<void>(count_live(s));
  for (std::uint32_t i = 0; i < s.capacities().backends; ++i) {
    static_cast<void>(any_lease_names(s, {i, 1}));
    static_cast<void>(latest_use_ns(s, i));
  }
  for (const char* model : {"m1", "bb", "x"}) {
    const Effective effective = resolve_settings(s, model);
    for (const SettingInfo& info : kSettings) {
      if (clamp_setting(info, effective.get(info.id)) != effective.get(info.id))
        broken("a value out of range");
    }
  }
  static_cast<void>(load_settings(s));
  check_printed(bench.output.of([&] { run_poolctl(bytes[0] >> 1, bytes[0] & 1, bench.path); }));
  return true;
}

}  // namespace modelpool::fuzz
