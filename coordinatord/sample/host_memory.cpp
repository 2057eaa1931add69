#include "sample/host_memory.hpp"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "base/time.hpp"

namespace modelpool::sample {
namespace {

// A look at all processes takes 10 us for each: children are not looked for at each measure.
constexpr std::uint64_t kLookEvery_ns = 5 * kSecond_ns;
constexpr std::uint64_t kTrustedFor_ns = 30 * kSecond_ns;
constexpr std::uint64_t kKiB_bytes = 1024;

// "Name:    123 kB" of a line of its own.
std::optional<std::uint64_t> kib_field(std::string_view text, std::string_view name) {
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (!line.starts_with(name) || line.size() <= name.size() || line[name.size()] != ':') continue;
    line.remove_prefix(name.size() + 1);
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    std::uint64_t kib = 0;
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), kib);
    if (error != std::errc() || kib > UINT64_MAX / kKiB_bytes) return std::nullopt;
    return kib * kKiB_bytes;
  }
  return std::nullopt;
}

// Is it the same process still? Asked after it was looked at.
bool is_there(const ProcessIdentity& process) {
  const auto stat = read_stat(process.pid);
  return stat && stat->start_ticks == process.start_ticks;
}

std::optional<std::uint64_t> measure_cgroup(const Cgroup& cgroup) {
  const auto stat = cgroup.read("memory.stat");
  const auto bytes = stat ? bytes_of_cgroup(*stat) : std::nullopt;
  if (!bytes) return std::nullopt;
  std::uint64_t swapped = 0;
  if (const auto text = cgroup.read("memory.swap.current"))
    std::from_chars(text->data(), text->data() + text->size(), swapped);
  return *bytes + swapped + cgroup.huge_pages_bytes();
}

}  // namespace

// Locked counts what is locked of written pages too, and these are counted already: of files there
// is no more than all of theirs.
std::optional<std::uint64_t> bytes_of_rollup(std::string_view text) {
  const auto field = [text](std::string_view name) { return kib_field(text, name).value_or(0); };
  const auto written = kib_field(text, "Pss_Anon");
  if (!written) return std::nullopt;  // before Linux 5.4, or a process without memory
  const auto swapped = kib_field(text, "SwapPss");
  return *written + field("Pss_Shmem") + std::min(field("Locked"), field("Pss_File")) +
         (swapped ? *swapped : field("Swap")) + field("Private_Hugetlb") + field("Shared_Hugetlb");
}

std::optional<std::uint64_t> bytes_of_statm(std::string_view text) {
  std::uint64_t pages[3] = {0, 0, 0};  // size, resident, of files and shared
  for (std::uint64_t& count : pages) {
    text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
    if (error != std::errc()) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  }
  const auto page_bytes = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  return (pages[1] - std::min(pages[1], pages[2])) * page_bytes;
}

// As of a process: what cannot be evicted holds written pages, too; `file` holds `shmem`.
std::optional<std::uint64_t> bytes_of_cgroup(std::string_view memory_stat) {
  const auto written = find_counter(memory_stat, "anon");
  if (!written) return std::nullopt;
  const auto field = [memory_stat](std::string_view name) {
    return find_counter(memory_stat, name).value_or(0);
  };
  const std::uint64_t shared = field("shmem");
  const std::uint64_t of_files = field("file") - std::min(field("file"), shared);
  return *written + shared + std::min(field("unevictable"), of_files);
}

HostMemory::OfProcess HostMemory::measure_process(const ProcessIdentity& process) {
  const auto statm = read_proc(process.pid, "statm");
  if (!statm) return {};
  Remembered& last = remembered_[process.pid];
  const bool is_same = last.start_ticks == process.start_ticks && last.statm == *statm &&
                       now_ns() < last.measured_ns + kTrustedFor_ns;
  if (!is_same) {
    std::optional<std::uint64_t> bytes;
    if (const auto rollup = read_proc(process.pid, "smaps_rollup"))
      bytes = bytes_of_rollup(*rollup);
    const bool is_rough = !bytes;
    if (is_rough) bytes = bytes_of_statm(*statm);
    // Of a zombie it is 0, and not rough.
    last = {process.start_ticks,
            now_ns(),
            *statm,
            {bytes.has_value(), bytes.value_or(0), is_rough && bytes.value_or(0) != 0}};
  }
  return is_there(process) ? last.found : OfProcess{};
}

bool HostMemory::is_to_look(const coordinator::SampleRequest& request) const {
  if (now_ns() >= looked_ns_ + kLookEvery_ns || known_.size() != request.backends.size())
    return true;
  return std::any_of(request.backends.begin(), request.backends.end(),
                     [&](const auto& backend) { return !known_.contains(key_of(backend.ref)); });
}

void HostMemory::find_processes(const coordinator::SampleRequest& request) {
  looked_ns_ = now_ns();
  std::erase_if(remembered_, [](const auto& one) {
    return now_ns() >= one.second.measured_ns + 2 * kTrustedFor_ns;
  });
  known_.clear();
  std::map<pid_t, ProcessStat> all;
  for (const pid_t pid : list_pids().value_or(std::vector<pid_t>())) {
    if (pid == getpid()) continue;
    if (auto stat = read_stat(pid); stat && !stat->is_zombie()) all.emplace(pid, std::move(*stat));
  }
  std::set<pid_t> taken;  // a process belongs to one backend
  for (const auto& backend : request.backends) {
    for (const ProcessIdentity& process : backend.processes) taken.insert(process.pid);
  }
  for (const auto& backend : request.backends) {
    Known& known = known_[key_of(backend.ref)];
    std::vector<pid_t> members;
    for (const ProcessIdentity& process : backend.processes) {
      const auto found = all.find(process.pid);
      if (found == all.end() || found->second.start_ticks != process.start_ticks) continue;
      members.push_back(process.pid);
    }
    for (const auto& [pid, stat] : all) {
      const bool is_of_group = backend.group != 0 && stat.group == backend.group;
      if (is_of_group && taken.insert(pid).second) members.push_back(pid);
    }
    for (std::size_t i = 0; i < members.size(); ++i) {
      for (const auto& [pid, stat] : all) {
        if (stat.parent == members[i] && taken.insert(pid).second) members.push_back(pid);
      }
    }
    for (const pid_t pid : members) known.processes.push_back({pid, all[pid].start_ticks, 0});
    if (members.empty()) continue;
    auto cgroup = Cgroup::of(members.front());
    const auto inside = cgroup ? cgroup->processes() : std::nullopt;
    if (!inside || inside->empty()) continue;
    const bool is_own = std::all_of(inside->begin(), inside->end(), [&](pid_t pid) {
      return std::find(members.begin(), members.end(), pid) != members.end();
    });
    if (!is_own) continue;
    known.cgroup = std::move(cgroup);
    known.in_cgroup = *inside;
  }
}

std::vector<HostMemory::Measured> HostMemory::measure(const coordinator::SampleRequest& request) {
  if (is_to_look(request)) find_processes(request);
  std::vector<Measured> all;
  for (const auto& backend : request.backends) {
    const Known& known = known_[key_of(backend.ref)];
    Measured measured;
    if (!request.with_host) {
      for (const ProcessIdentity& process : known.processes)
        measured.processes.push_back(process.pid);
      all.push_back(std::move(measured));
      continue;
    }
    std::uint64_t sum = 0;
    bool any = false;
    const auto of_cgroup = known.cgroup ? measure_cgroup(*known.cgroup) : std::nullopt;
    for (const ProcessIdentity& process : known.processes) {
      const bool is_counted = of_cgroup && std::find(known.in_cgroup.begin(), known.in_cgroup.end(),
                                                     process.pid) != known.in_cgroup.end();
      const OfProcess found =
          is_counted ? OfProcess{is_there(process), 0, false} : measure_process(process);
      if (!found.is_there) continue;
      any = true;
      sum += found.bytes;
      measured.is_rough |= found.is_rough;
      measured.processes.push_back(process.pid);
    }
    if (any) measured.bytes = sum + of_cgroup.value_or(0);
    all.push_back(std::move(measured));
  }
  return all;
}

}  // namespace modelpool::sample
