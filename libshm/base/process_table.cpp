#include "base/process_table.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <iterator>

#include "base/proc.hpp"
#include "base/process.hpp"
#include "base/time.hpp"

namespace modelpool {
namespace {

constexpr std::string_view kMarkName = "MODELPOOL_BACKEND";
// More numbers than this were given since: the table is listed anew. Each round asks for them all,
// 0.3 us each.
constexpr pid_t kNewNumbersMax = 4096;

// A kernel's thread never has an environment.
bool is_kernel_thread(const ProcessStat& stat) {
  constexpr pid_t kKernelThreads = 2;
  return stat.pid == kKernelThreads || stat.parent == kKernelThreads;
}

bool has_gone(pid_t pid) { return getpgid(pid) < 0 && errno == ESRCH; }

// Of the mark in an environment; 0 if there is none.
std::uint64_t mark_in(std::string_view environment) {
  const auto mark = find_in_environment(environment, kMarkName);
  return mark ? ProcessTable::hash_of(*mark) : 0;
}

}  // namespace

std::uint64_t ProcessTable::hash_of(std::string_view mark) {
  return std::hash<std::string_view>{}(mark) | 1;
}

bool ProcessTable::is_same(const Entry& entry) {
  return entry.inode != 0 && proc_inode(entry.pid) == entry.inode;
}

ProcessTable::Entry ProcessTable::read(pid_t pid) {
  // The inode first: if another process takes the number in between, its start time is too late
  // here, not too early.
  Entry entry;
  entry.pid = pid;
  entry.inode = proc_inode(pid);
  const auto stat = entry.inode != 0 ? read_stat(pid) : std::nullopt;
  if (!stat) entry.inode = 0;
  entry.start_ticks = stat ? stat->start_ticks : UINT64_MAX;
  return entry;
}

void ProcessTable::forget_seen(Entry& entry) {
  entry.is_seen = entry.parent_is_seen = false;
  entry.seen_mark.reset();
}

bool ProcessTable::list() {
  listed_last_ = read_last_pid();
  round_last_.reset();
  const auto pids = list_pids();
  if (!pids) return false;
  std::sort(entries_.begin(), entries_.end(),
            [](const Entry& a, const Entry& b) { return a.pid < b.pid; });
  std::vector<Entry> entries;
  entries.reserve(pids->size());
  auto known = entries_.begin();
  for (const pid_t pid : *pids) {  // in the order of their numbers
    while (known != entries_.end() && known->pid < pid) ++known;
    const bool is_known = known != entries_.end() && known->pid == pid && is_same(*known);
    entries.push_back(is_known ? *known : read(pid));
    forget_seen(entries.back());
  }
  entries_ = std::move(entries);
  return true;
}

ProcessTable::Round ProcessTable::begin_round() {
  const auto last = read_last_pid();
  if (!last || !listed_last_) return Round::kUnknown;
  if (*last < *listed_last_ || *last - *listed_last_ > kNewNumbersMax) return Round::kAnew;
  const bool is_first = !round_last_;
  round_last_ = last;
  next_number_ = *listed_last_ + 1;
  return is_first && !find_late() ? Round::kFailed : Round::kBegun;
}

bool ProcessTable::is_complete() const {
  const auto last = read_last_pid();
  return last && last == round_last_;
}

// Who had a number before list() but was not there yet: a fork takes the number first.
bool ProcessTable::find_late() {
  given_.clear();
  late_.clear();
  const auto pids = list_pids();
  if (!pids) return false;
  std::vector<pid_t> listed;
  listed.reserve(entries_.size());
  for (std::size_t at = 0; at < entries_.size(); ++at) {
    listed.push_back(entries_[at].pid);
    if (entries_[at].pid > *listed_last_) given_[entries_[at].pid] = at;
  }
  std::set_difference(pids->begin(), pids->end(), listed.begin(), listed.end(),
                      std::back_inserter(late_));
  return true;
}

std::size_t ProcessTable::add(pid_t pid) {
  if (pid > *listed_last_) given_[pid] = entries_.size();
  entries_.push_back(read(pid));
  return entries_.size() - 1;
}

std::optional<std::size_t> ProcessTable::next_new() {
  if (!late_.empty()) {
    const pid_t pid = late_.back();
    late_.pop_back();
    return add(pid);
  }
  while (next_number_ <= *round_last_) {
    const pid_t pid = next_number_++;
    if (!leads_threads(pid)) continue;  // it has ended, or is not there yet: the next round asks
    const auto known = given_.find(pid);
    if (known == given_.end() || !is_same(entries_[known->second])) return add(pid);
  }
  return std::nullopt;
}

void ProcessTable::look_at(Entry& entry) {
  if (entry.is_seen) return;
  entry.is_seen = true;
  entry.group = getpgid(entry.pid);
  entry.is_gone = entry.group < 0 && errno == ESRCH;
  entry.session = getsid(entry.pid);
}

void ProcessTable::look_at_parent(Entry& entry) {
  if (entry.parent_is_seen) return;
  entry.parent_is_seen = true;
  const auto stat = read_stat(entry.pid);
  entry.is_readable = stat.has_value();
  entry.is_gone = stat ? stat->has_ended() : has_gone(entry.pid);
  entry.parent = stat ? stat->parent : 0;
}

ProcessTable::Mark ProcessTable::read_mark(Entry& entry) {
  if (entry.mark_is_known) return Mark::kRead;
  if (!entry.seen_mark) entry.seen_mark = read_mark_now(entry);
  return *entry.seen_mark;
}

ProcessTable::Mark ProcessTable::read_mark_now(Entry& entry) {
  const auto environment = read_environment(entry.pid);
  const int error = environment ? 0 : errno;
  if (error == EACCES || error == EPERM) return Mark::kForbidden;
  if (environment && !environment->empty()) {
    entry.mark = mark_in(*environment);
    entry.mark_is_known = true;
    return Mark::kRead;
  }
  const auto stat = read_stat(entry.pid);
  if (!stat) return has_gone(entry.pid) ? Mark::kEnded : Mark::kUnreadable;
  if (stat->has_ended()) return Mark::kEnded;
  if (error != 0 && error != ESRCH && error != ENOENT) return Mark::kUnreadable;
  if (!is_kernel_thread(*stat)) {
    // While the kernel replaces its program it has neither environment nor arguments for a moment,
    // or what was opened was the old one's.
    const auto arguments = read_proc(entry.pid, "cmdline");
    const auto again = read_proc(entry.pid, "environ");
    if (!arguments || !again) return has_gone(entry.pid) ? Mark::kEnded : Mark::kUnreadable;
    if (!stat->has_environment || arguments->empty() || !again->empty()) {
      if (entry.hidden_since_ns == 0) entry.hidden_since_ns = now_ns();
      return Mark::kHidden;
    }
  }
  entry.mark_is_known = true;
  return Mark::kRead;
}

}  // namespace modelpool
