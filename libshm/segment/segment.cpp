#include "segment/segment.hpp"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <boost/interprocess/exceptions.hpp>
#include <boost/interprocess/mapped_region.hpp>
#include <cerrno>
#include <cstdio>

#include "base/duration.hpp"
#include "base/shortage.hpp"
#include "base/text.hpp"
#include "base/time.hpp"
#include "segment/mappable.hpp"
#include "segment/meter_infos.hpp"

namespace modelpool {
namespace {

// Writable mappings of this process, so that attaching again finds the same one. Push only.
struct Mapped {
  std::shared_ptr<Segment> segment;
  Mapped* next;
};
std::atomic<Mapped*> g_mapped{nullptr};

std::shared_ptr<Segment> find_mapped(const Fd& file) {
  struct stat info;
  if (fstat(file.get(), &info) != 0) return nullptr;
  // acquire: pairs with the release of the push, which published the node
  for (Mapped* m = g_mapped.load(std::memory_order_acquire); m != nullptr; m = m->next) {
    if (m->segment->device() == info.st_dev && m->segment->inode() == info.st_ino)
      return m->segment;
  }
  return nullptr;
}

void remember_mapped(std::shared_ptr<Segment> segment) {
  auto* node = new Mapped{std::move(segment), g_mapped.load(std::memory_order_relaxed)};
  while (!g_mapped.compare_exchange_weak(node->next, node, std::memory_order_release,
                                         std::memory_order_relaxed)) {
  }
}

}  // namespace

Result<std::shared_ptr<Segment>> Segment::map(OpenSegment opened, bool writable) {
  struct stat info;
  if (fstat(opened.file.get(), &info) != 0)
    return fail_errno(errno, "examine " + escape(opened.path));
  auto segment = std::shared_ptr<Segment>(new Segment());
  namespace bi = boost::interprocess;
  try {
    const auto mode = writable ? bi::read_write : bi::read_only;
    auto region = std::make_shared<bi::mapped_region>(MappableFile{opened.file.get()}, mode, 0,
                                                      opened.header.total_bytes);
    segment->base_ = static_cast<std::byte*>(region->get_address());
    segment->mapping_ = std::move(region);
  } catch (const bi::interprocess_exception& e) {
    const int error = e.get_native_error();
    return fail_errno(error, "map " + escape(opened.path),
                      shortage_advice(Needs::kDescriptor, error));
  }
  for (std::size_t i = 0; i < kTableCount; ++i) {
    segment->tables_[i] = segment->base_ + opened.header.tables[i].offset;
  }
  const auto& tables = opened.header.tables;
  const auto count = [&](Table t) {
    return static_cast<std::uint32_t>(tables[static_cast<std::size_t>(t)].count);
  };
  segment->header_ = opened.header;
  segment->capacities_ = {count(Table::kBackends),
                          count(Table::kWorkers),
                          count(Table::kLeases) / count(Table::kWorkers),
                          count(Table::kWaiters),
                          count(Table::kEvents),
                          count(Table::kModels),
                          rules_capacity(opened.header)};
  segment->settings_copy_words_ = settings_copy_bytes(segment->capacities_) / sizeof(Word);
  segment->last_used_stride_ = tables[static_cast<std::size_t>(Table::kLastUsed)].stride;
  segment->path_ = std::move(opened.path);
  segment->name_ = opened.header.name.data();
  segment->writable_ = writable;
  segment->device_ = info.st_dev;
  segment->inode_ = info.st_ino;
  segment->users_ = std::move(opened.users);
  if (!writable) return segment;
  segment->file_ = std::move(opened.file);
  segment->meter_places_ = std::make_shared<const AllMeterPlaces>(&segment->meter_info(0));
  remember_mapped(segment);
  return segment;
}

Segment::~Segment() = default;

Result<std::shared_ptr<Segment>> Segment::attach(std::string_view name,
                                                 const SegmentOptions& options) {
  auto opened = open_to_use(name, options);
  if (!opened) return fail(opened.error());
  if (auto mapped = find_mapped(opened->file)) return mapped;
  return map(std::move(*opened), true);
}

Result<std::shared_ptr<Segment>> Segment::open_read_only(std::string_view name,
                                                         const std::string& dir) {
  auto opened = open_to_look(name, dir);
  if (!opened) return fail(opened.error());
  return map(std::move(*opened), false);
}

Result<std::shared_ptr<Segment>> Segment::open_file(const std::string& path) {
  auto opened = open_copy(path);
  if (!opened) return fail(opened.error());
  return map(std::move(*opened), false);
}

Result<std::shared_ptr<Segment>> Segment::adopt(Fd file, const std::string& home) {
  if (auto mapped = find_mapped(file)) return mapped;
  const auto header = read_header(file.get(), home, "end it with the coordinatord of its version");
  if (!header) return fail(header.error());
  if (auto ok = check_host(*header, home); !ok) return fail(ok.error());
  return map({std::move(file), Fd(), home, *header}, true);
}

Result<std::shared_ptr<Segment>> Segment::copy() const {
  Fd file(memfd_create("modelpool-copy", MFD_CLOEXEC));
  if (!file)
    return fail_errno(errno, "copy " + escape(path_), shortage_advice(Needs::kDescriptor, errno));
  for (std::uint64_t at = 0; at < header_.total_bytes;) {
    const ssize_t written = write(file.get(), base_ + at, header_.total_bytes - at);
    if (written < 0 && errno != EINTR) return fail_errno(errno, "copy " + escape(path_));
    if (written > 0) at += static_cast<std::uint64_t>(written);
  }
  auto copied = map({std::move(file), Fd(), path_, header_}, true);
  if (!copied) return copied;
  if (auto ok = init_mutex((*copied)->lock()); !ok) return fail(ok.error());
  return copied;
}

std::string Segment::uuid_text() const {
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx",
                static_cast<unsigned long long>(header_.uuid[0]),
                static_cast<unsigned long long>(header_.uuid[1]));
  return text;
}

std::string Segment::token(std::uint32_t backend, std::uint32_t generation) const {
  return uuid_text() + "/" + std::to_string(backend) + "/" + std::to_string(generation);
}

Segment::NameState Segment::name_state() const {
  struct stat info;
  if (stat(path_.c_str(), &info) == 0) {
    return info.st_dev == device_ && info.st_ino == inode_ ? NameState::kOwn : NameState::kAnothers;
  }
  return errno == ENOENT || errno == ENOTDIR ? NameState::kNobodys : NameState::kUnknown;
}

bool Segment::has_name() const { return name_state() == NameState::kOwn; }

bool Segment::has_lost_name() const {
  const NameState state = name_state();
  return state == NameState::kAnothers || state == NameState::kNobodys;
}

bool Segment::is_replaced() const {
  // relaxed: it guards nothing else; only the coordinator, who looks at the name, takes it back
  if (line().replaced.load(std::memory_order_relaxed) != 0) return true;
  const NameState state = name_state();
  // The name may be out of sight only for this process (chroot). A coordinator that lives would
  // know.
  return state == NameState::kAnothers ||
         (state == NameState::kNobodys && coordinator_liveness(*this) == Liveness::kDead);
}

void Segment::set_home(const std::string& path) const {
  if (path.size() >= kHomeCapacity_bytes) return;
  reinterpret_cast<HomeRecord*>(base_ + kHomeOffset)->store(path);
}

std::string Segment::home() const {
  return reinterpret_cast<const HomeRecord*>(base_ + kHomeOffset)->load();
}

std::string start_command(const Segment& segment) {
  const std::string& path = segment.path();
  return command_on_pool("coordinatord", segment.name(), path.substr(0, path.rfind('/')));
}

std::string explain_absence(const Segment& segment, const JudgeView& judge, std::uint64_t now_ns) {
  if (judge.state == JudgeState::kDead)
    return "no coordinator is running; start " + start_command(segment);
  const std::string pid = std::to_string(judge.identity.process.pid);
  return "the coordinator (pid " + pid + ") has hung for " +
         format_age(age_ns(now_ns, judge.hung_since_ns)) +
         ": work is due and it does not look at it; kill -CONT " + pid +
         " if it was stopped, else kill -KILL " + pid + " and start " + start_command(segment);
}

}  // namespace modelpool
