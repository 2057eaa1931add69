// What the benchmarks share: samples and their summary as JSON on stdout, a backend that tells when
// it was signalled, and a saturated machine.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "pool/inside.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

namespace modelpool::bench {

double to_ms(std::int64_t duration_ns);
// later - earlier, below 0 if it was not later.
double ms_between(std::uint64_t earlier_ns, std::uint64_t later_ns);
void sleep_ns(std::uint64_t duration_ns);

// {"benchmark": name, "unit": unit, "results": [{"name", "median", "p99", "min", "max",
// "samples"}]}
class Report {
 public:
  Report(const std::string& benchmark, const std::string& unit);
  void note(const std::string& key, const nlohmann::json& value) { report_[key] = value; }
  void remark(const std::string& text) { report_["notes"].push_back(text); }  // beneath the table
  // p99 is the smallest sample that at least 99 % of them do not exceed. REQUIRES: not empty.
  nlohmann::json& add(const std::string& name, std::vector<double> samples);
  void add(const nlohmann::json& result) { report_["results"].push_back(result); }
  void print() const;

 private:
  nlohmann::json report_;
};

// A bench_backend started with a ticket. Ended by the coordinator, or with its BackendsEnd.
class Backend {
 public:
  Backend(const test::Scratch& scratch, LoadTicket& ticket);
  void wait_until_up();             // from here on signalled_ns() is certain to be known
  std::uint64_t wait_until_gone();  // when a process that waits for it saw that, by CLOCK_MONOTONIC
  // When SIGTERM reached it; nullopt if that was before it was up. REQUIRES: it is gone.
  std::optional<std::uint64_t> signalled_ns() const;

 private:
  ProcessHandle process_;
  std::string report_;  // a file
};

// When this process was seen gone, by who waits at its pidfd.
std::uint64_t wait_until_gone(const ProcessHandle& process);

// Twice as many spinning processes as there are CPUs, until it goes.
class FullLoad {
 public:
  FullLoad();

 private:
  std::vector<std::unique_ptr<test::Forked>> burners_;
};

}  // namespace modelpool::bench
