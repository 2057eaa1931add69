// What the processes of a backend take of the host's memory: what would be free without them.
//
// Of a process that is what it has written (Pss_Anon, Pss_Shmem: a page that several share counts
// for each in part), what it has locked of files, what of it is swapped out, and its huge pages.
// Other pages of files are not counted: the kernel drops them when it needs room. A model that is
// mapped and not locked therefore takes next to nothing.
//
// A backend with a cgroup (version 2) of its own is measured by that: it counts what no process
// maps, too, and is cheaper to read.
//
// Safety: one thread.
//
// Errors: processes that end meanwhile take nothing. Of one whose memory may not be looked at, the
// part of its resident memory that is not of files is taken, and `is_rough` says so.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/cgroup.hpp"
#include "base/proc.hpp"
#include "sample_text.hpp"

namespace modelpool::sample {

// --- Files of the kernel; nullopt: it is not one of these

std::optional<std::uint64_t> bytes_of_rollup(std::string_view text);  // /proc/PID/smaps_rollup
std::optional<std::uint64_t> bytes_of_statm(std::string_view text);   // /proc/PID/statm, roughly
std::optional<std::uint64_t> bytes_of_cgroup(std::string_view memory_stat);  // without swap

// --- Backends

class HostMemory {
 public:
  struct Measured {
    std::optional<std::uint64_t> bytes;  // nullopt: no process of it is there
    std::vector<pid_t> processes;
    bool is_rough = false;
  };
  // Of each backend of the request, in its order. If the host is not asked for, only who belongs.
  std::vector<Measured> measure(const coordinator::SampleRequest& request);

 private:
  // Who belongs to a backend: those that are known, their children and their group, as they were
  // found at a look at all of /proc.
  struct Known {
    std::vector<ProcessIdentity> processes;
    std::optional<Cgroup> cgroup;  // nobody else is in it
    std::vector<pid_t> in_cgroup;
  };
  using Key = std::pair<std::uint32_t, std::uint32_t>;  // slot and generation
  static Key key_of(BackendRef ref) { return {ref.index, ref.generation}; }
  void find_processes(const coordinator::SampleRequest& request);
  bool is_to_look(const coordinator::SampleRequest& request) const;

  struct OfProcess {
    bool is_there = false;
    std::uint64_t bytes = 0;
    bool is_rough = false;
  };
  OfProcess measure_process(const ProcessIdentity& process);

  // To go through the pages of a process takes 80 ns for each: it is left out for as long as its
  // sizes stay what they were, up to kTrustedFor_ns.
  struct Remembered {
    std::uint64_t start_ticks = 0;
    std::uint64_t measured_ns = 0;
    std::string statm;
    OfProcess found;
  };

  std::map<Key, Known> known_;
  std::map<pid_t, Remembered> remembered_;
  std::uint64_t looked_ns_ = 0;
};

}  // namespace modelpool::sample
