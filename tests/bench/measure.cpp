#include "measure.hpp"

#include <poll.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <iostream>
#include <stdexcept>

#include "base/time.hpp"

namespace modelpool::bench {
namespace {

constexpr int kGonePatience_ms = 60'000;
constexpr std::string_view kUp = "up\n";

}  // namespace

double to_ms(std::int64_t duration_ns) { return static_cast<double>(duration_ns) / 1e6; }

double ms_between(std::uint64_t earlier_ns, std::uint64_t later_ns) {
  return to_ms(static_cast<std::int64_t>(later_ns - earlier_ns));
}

void sleep_ns(std::uint64_t duration_ns) {
  const timespec duration{static_cast<time_t>(duration_ns / kSecond_ns),
                          static_cast<long>(duration_ns % kSecond_ns)};
  clock_nanosleep(CLOCK_MONOTONIC, 0, &duration, nullptr);
}

Report::Report(const std::string& benchmark, const std::string& unit)
    : report_{{"benchmark", benchmark}, {"unit", unit}, {"results", nlohmann::json::array()}} {}

nlohmann::json& Report::add(const std::string& name, std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  const std::size_t middle = samples.size() / 2;
  const double median =
      samples.size() % 2 == 1 ? samples[middle] : (samples[middle - 1] + samples[middle]) / 2;
  const auto rank = static_cast<std::size_t>(std::ceil(0.99 * static_cast<double>(samples.size())));
  auto& results = report_["results"];
  results.push_back({{"name", name},
                     {"median", median},
                     {"p99", samples[rank - 1]},
                     {"min", samples.front()},
                     {"max", samples.back()},
                     {"samples", samples.size()}});
  return results.back();
}

void Report::print() const { std::cout << report_.dump(1) << std::endl; }

Backend::Backend(const test::Scratch& scratch, LoadTicket& ticket) {
  static std::atomic<unsigned> count{0};
  report_ = scratch.path("backend-" + std::to_string(count.fetch_add(1)));
  SpawnOptions options;
  options.output = report_;
  if (auto ok = ticket.spawn({MODELPOOL_BENCH_BACKEND}, options); !ok)
    throw std::runtime_error(ok.error().text);
  auto process = ProcessHandle::open(ticket.pid());
  if (!process) throw std::runtime_error(process.error().text);
  process_ = std::move(*process);
}

void Backend::wait_until_up() {
  if (!test::eventually([&] { return test::read_file(report_).starts_with(kUp); }))
    throw std::runtime_error("a backend did not come up");
}

std::uint64_t Backend::wait_until_gone() { return bench::wait_until_gone(process_); }

std::optional<std::uint64_t> Backend::signalled_ns() const {
  const std::string text = test::read_file(report_);
  unlink(report_.c_str());
  if (text.size() <= kUp.size()) return std::nullopt;
  std::uint64_t when = 0;
  std::from_chars(text.data() + kUp.size(), text.data() + text.size(), when);
  return when;
}

std::uint64_t wait_until_gone(const ProcessHandle& process) {
  pollfd wait{process.fd(), POLLIN, 0};
  if (poll(&wait, 1, kGonePatience_ms) != 1) throw std::runtime_error("a process did not end");
  return now_ns();
}

FullLoad::FullLoad() {
  for (long i = 0; i < 2 * sysconf(_SC_NPROCESSORS_ONLN); ++i) {
    burners_.push_back(std::make_unique<test::Forked>([](test::Forked::Child&) {
      for (volatile unsigned turns = 0;;) turns = turns + 1;
    }));
  }
}

}  // namespace modelpool::bench
