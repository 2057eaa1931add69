// Asks a model server, straight or through a door, and measures: the latency of small answers, how
// many there are a second, how late the chunks of many streams come, and what a connection costs
// the process that has it. Where there are several to ask they take turns, so that whatever else
// the machine does hits all of them. JSON on stdout.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <charconv>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "base/time.hpp"
#include "flags/flags.hpp"
#include "measure.hpp"

namespace modelpool::bench {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
template <class T = void>
using Task = asio::awaitable<T>;
constexpr auto kTask = asio::as_tuple(asio::use_awaitable);

constexpr std::string_view kStraight = "straight";
constexpr std::size_t kConnectingMax = 64;  // at once
constexpr std::chrono::seconds kUpPatience{60};

[[noreturn]] void give_up(const std::string& why) {
  std::cerr << "door_load: " << why << std::endl;
  std::_Exit(1);
}

// NAME=PORT:PID: who is asked, on loopback, and the process whose cost counts (0: none).
struct Target {
  std::string name;
  std::uint16_t port = 0;
  int pid = 0;
};
Result<Target> parse_target(const std::string& text) {
  const std::size_t is = text.find('='), colon = text.rfind(':');
  if (is == std::string::npos || colon == std::string::npos)
    return fail(Errc::kInvalid, "write NAME=PORT:PID");
  return Target{text.substr(0, is),
                static_cast<std::uint16_t>(std::stoul(text.substr(is + 1, colon - is - 1))),
                std::stoi(text.substr(colon + 1))};
}

std::uint64_t resident_bytes(int pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/statm");
  std::uint64_t all = 0, resident = 0;
  file >> all >> resident;
  return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

double cpu_seconds(int pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/schedstat");  // of its one thread
  double nanoseconds = 0;
  file >> nanoseconds;
  return nanoseconds / 1e9;
}

// --- Talking -------------------------------------------------------------------------------------

std::string request(const std::string& query, bool streams) {
  const std::string body =
      std::string(R"({"model":"bench","messages":[{"role":"user","content":"Say hello."}],)") +
      R"("max_tokens":16,"stream":)" + (streams ? "true}" : "false}");
  return "POST /v1/chat/completions" + query +
         " HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
         "User-Agent: bench\r\nAccept: */*\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}

class Talk {
 public:
  Talk(asio::io_context& loop, asio::ssl::context* tls) : socket_(loop) {
    if (tls != nullptr) tls_.emplace(socket_, *tls);
  }

  Task<bool> open(std::uint16_t port, const char* source = "127.0.0.1") {
    error_code error;
    socket_.open(tcp::v4(), error);
    socket_.bind({asio::ip::make_address(source), 0}, error);
    if (error) co_return false;
    std::tie(error) =
        co_await socket_.async_connect({asio::ip::address_v4::loopback(), port}, kTask);
    if (error) co_return false;
    socket_.set_option(tcp::no_delay(true), error);
    if (tls_)
      std::tie(error) = co_await tls_->async_handshake(asio::ssl::stream_base::client, kTask);
    co_return !error;
  }

  Task<bool> send(const std::string& text) {
    const auto [error, bytes] =
        tls_ ? co_await asio::async_write(*tls_, asio::buffer(text), kTask)
             : co_await asio::async_write(socket_, asio::buffer(text), kTask);
    co_return !error;
  }

  // More of `text()`; false at the end.
  Task<bool> receive() {
    const std::size_t before = text_.size();
    text_.resize(before + 4096);
    const auto room = asio::buffer(text_.data() + before, 4096);
    const auto [error, bytes] = tls_ ? co_await tls_->async_read_some(room, kTask)
                                     : co_await socket_.async_read_some(room, kTask);
    text_.resize(before + bytes);
    co_return !error;
  }
  std::string& text() { return text_; }

  // A small answer, whole.
  Task<bool> ask(const std::string& question) {
    text_.clear();
    if (!co_await send(question)) co_return false;
    for (;;) {
      if (!co_await receive()) co_return false;
      const std::size_t end = text_.find("\r\n\r\n");
      if (end == std::string::npos) continue;
      if (text_.compare(0, 12, "HTTP/1.1 200") != 0) give_up("an answer: " + text_);
      const std::size_t at = text_.find("Content-Length: ");
      std::size_t length = 0;
      std::from_chars(text_.data() + at + 16, text_.data() + end, length);
      if (text_.size() >= end + 4 + length) co_return true;
    }
  }

 private:
  tcp::socket socket_;
  std::optional<asio::ssl::stream<tcp::socket&>> tls_;
  std::string text_;
};

// Runs until all that was spawned is done, or for so long.
void run(asio::io_context& loop) {
  loop.restart();
  loop.run();
}

template <class T>
void spawn(asio::io_context& loop, Task<T> task) {
  asio::co_spawn(loop, std::move(task), asio::detached);
}

double middle(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

nlohmann::json single(const std::string& name, double value, const std::string& unit,
                      std::size_t samples = 1) {
  return {{"name", name}, {"median", value}, {"samples", samples}, {"unit", unit}};
}

// --- Small answers -------------------------------------------------------------------------------

// One after the other, of each target in turn, on a connection that is kept.
void measure_latency(Report& report, const std::vector<Target>& targets, std::size_t samples) {
  asio::io_context loop(1);
  std::map<std::string, std::vector<double>> times_us;
  spawn(loop, [](auto& all, auto& to, auto& in, std::size_t rounds) -> Task<> {
    std::vector<std::unique_ptr<Talk>> talks;
    for (const Target& target : to) {
      talks.push_back(std::make_unique<Talk>(in, nullptr));
      if (!co_await talks.back()->open(target.port)) give_up("no connection to " + target.name);
    }
    const std::string question = request("", false);
    const std::size_t warm = rounds / 10;
    for (std::size_t round = 0; round < warm + rounds; ++round) {
      for (std::size_t i = 0; i < to.size(); ++i) {
        const std::uint64_t begin_ns = now_ns();
        if (!co_await talks[i]->ask(question)) give_up("no answer of " + to[i].name);
        if (round >= warm)
          all[to[i].name].push_back(static_cast<double>(now_ns() - begin_ns) / 1000.0);
      }
    }
  }(times_us, targets, loop, samples));
  run(loop);
  const double base_us = middle(times_us[std::string(kStraight)]);
  for (const Target& target : targets) {
    auto& of = times_us[target.name];
    report.add("latency/" + target.name, of);
    if (target.name == kStraight) continue;
    for (double& value : of) value -= base_us;
    report.add("added/" + target.name, of);
  }
}

struct Rate {
  std::size_t answers = 0;
  bool is_over = false;
};

void measure_rate(Report& report, const std::vector<Target>& targets, std::size_t connections,
                  double seconds, unsigned rounds) {
  std::map<std::string, std::vector<double>> rates, costs_us;
  const std::string question = request("", false);
  for (unsigned round = 0; round < rounds; ++round) {
    for (const Target& target : targets) {
      asio::io_context loop(1);
      Rate rate;
      for (std::size_t i = 0; i < connections; ++i) {
        spawn(loop, [](auto& in, auto& to, auto& what, auto& count) -> Task<> {
          Talk talk(in, nullptr);
          if (!co_await talk.open(to.port)) give_up("no connection to " + to.name);
          while (!count.is_over) {
            if (!co_await talk.ask(what)) give_up("no answer of " + to.name);
            ++count.answers;
          }
        }(loop, target, question, rate));
      }
      asio::steady_timer end(loop, std::chrono::milliseconds(static_cast<long>(seconds * 1000)));
      end.async_wait([&](error_code) { rate.is_over = true; });
      const double cpu = target.pid > 0 ? cpu_seconds(target.pid) : 0;
      const std::uint64_t begin_ns = now_ns();
      run(loop);
      const double elapsed = static_cast<double>(now_ns() - begin_ns) / 1e9;
      rates[target.name].push_back(static_cast<double>(rate.answers) / elapsed);
      if (target.pid > 0) {
        costs_us[target.name].push_back((cpu_seconds(target.pid) - cpu) * 1e6 /
                                        static_cast<double>(rate.answers));
      }
    }
  }
  for (const Target& target : targets) {
    report.add("answers/" + target.name, rates[target.name])["unit"] = "1/s";
    if (target.pid > 0)
      report.add("cpu_per_answer/" + target.name, costs_us[target.name])["unit"] = "us";
  }
}

// --- Streams -------------------------------------------------------------------------------------

struct Streams {
  std::vector<double> delays_ms;
  std::size_t up = 0;
  std::size_t whole = 0;
  std::size_t cut = 0;
  std::size_t connecting = 0;
};

// The times in the events that are whole, which are taken off.
void take_events(std::string& text, Streams& streams) {
  const std::uint64_t now = now_ns();
  std::size_t done = 0;
  for (;;) {
    const std::size_t at = text.find("{\"t\":", done);
    if (at == std::string::npos || text.size() < at + 25) break;
    std::uint64_t then = 0;
    std::from_chars(text.data() + at + 5, text.data() + at + 25, then);
    streams.delays_ms.push_back(ms_between(then, now));
    done = at + 25;
  }
  // What may still be the beginning of one, or of the end.
  done = std::max(done, text.size() - std::min<std::size_t>(text.size(), 32));
  text.erase(0, done);
}

Task<> follow_stream(asio::io_context& loop, asio::ssl::context* tls, const Target& target,
                     const std::string& question, Streams& streams) {
  Talk talk(loop, tls);
  asio::steady_timer turn(loop);
  while (streams.connecting >= kConnectingMax) {
    turn.expires_after(std::chrono::milliseconds(5));
    co_await turn.async_wait(kTask);
  }
  ++streams.connecting;
  const bool is_open = co_await talk.open(target.port) && co_await talk.send(question);
  --streams.connecting;
  if (!is_open) give_up("no connection to " + target.name);
  bool is_up = false;
  while (co_await talk.receive()) {
    if (!is_up) {
      if (talk.text().compare(0, 12, "HTTP/1.1 200") != 0) give_up("an answer: " + talk.text());
      is_up = true;
      ++streams.up;
    }
    const bool is_whole = talk.text().ends_with("\r\n0\r\n\r\n");
    take_events(talk.text(), streams);
    if (is_whole) {
      ++streams.whole;
      co_return;
    }
  }
  ++streams.cut;
}

struct StreamsWanted {
  std::size_t count = 400;
  unsigned rate = 20;
  double seconds = 5;
  bool with_memory = false;
};

Streams run_streams(const Target& target, const StreamsWanted& wanted, asio::ssl::context* tls,
                    double* resident_bytes_each) {
  asio::io_context loop(1);
  Streams streams;
  const auto chunks = static_cast<unsigned>(wanted.rate * wanted.seconds);
  const std::string question =
      request("?rate=" + std::to_string(wanted.rate) + "&chunks=" + std::to_string(chunks), true);
  const std::uint64_t before = resident_bytes(target.pid);
  for (std::size_t i = 0; i < wanted.count; ++i)
    spawn(loop, follow_stream(loop, tls, target, question, streams));
  spawn(loop, [](auto& in, auto& seen, auto& want, int pid, auto begin, double* each) -> Task<> {
    const auto give_up_at = Clock::now() + kUpPatience;
    asio::steady_timer look(in);
    while (seen.up < want.count) {
      if (Clock::now() > give_up_at) give_up("the streams do not begin");
      look.expires_after(std::chrono::milliseconds(20));
      co_await look.async_wait(kTask);
    }
    std::cerr << "up" << std::endl;
    seen.delays_ms.clear();  // of the rush of the beginning
    if (each == nullptr) co_return;
    look.expires_after(std::chrono::milliseconds(static_cast<long>(want.seconds * 300)));
    co_await look.async_wait(kTask);
    if (seen.whole > 0) give_up("the streams end before all have begun; ask for longer ones");
    *each = static_cast<double>(resident_bytes(pid) - begin) / static_cast<double>(want.count);
  }(loop, streams, wanted, target.pid, before, resident_bytes_each));
  run(loop);
  return streams;
}

void measure_streams(Report& report, const std::vector<Target>& targets,
                     const StreamsWanted& wanted, asio::ssl::context* tls, unsigned rounds) {
  std::map<std::string, std::vector<double>> delays_ms;
  std::map<std::string, std::size_t> cut;
  const std::string what = std::to_string(wanted.count) + (tls != nullptr ? "_tls/" : "/");
  for (unsigned round = 0; round < rounds; ++round) {
    for (const Target& target : targets) {
      double each = 0;
      Streams streams = run_streams(target, wanted, tls, wanted.with_memory ? &each : nullptr);
      auto& all = delays_ms[target.name];
      all.insert(all.end(), streams.delays_ms.begin(), streams.delays_ms.end());
      cut[target.name] += streams.cut;
      if (wanted.with_memory)
        report.add(single("stream_resident/" + what + target.name, each / 1024, "KiB"));
    }
  }
  for (const Target& target : targets) {
    report.add("chunk_delay/" + what + target.name, delays_ms[target.name])["unit"] = "ms";
    report.add(single("streams_cut/" + what + target.name, static_cast<double>(cut[target.name]),
                      "streams"));
  }
}

// --- Idle connections ----------------------------------------------------------------------------

void measure_idle(Report& report, const Target& target, std::size_t count) {
  asio::io_context loop(1);
  const std::uint64_t before = resident_bytes(target.pid);
  std::vector<std::unique_ptr<Talk>> talks;
  spawn(loop, [](auto& in, auto& all, auto& to, std::size_t wanted) -> Task<> {
    const std::string question = "GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    for (std::size_t i = 0; i < wanted; ++i) {
      all.push_back(std::make_unique<Talk>(in, nullptr));
      // Two addresses: more connections than one has ports.
      if (!co_await all.back()->open(to.port, i % 2 == 0 ? "127.0.0.1" : "127.0.0.2") ||
          !co_await all.back()->ask(question))
        give_up("only " + std::to_string(i) + " connections to " + to.name);
    }
  }(loop, talks, target, count));
  run(loop);
  const double each =
      static_cast<double>(resident_bytes(target.pid) - before) / static_cast<double>(count) / 1024;
  report.add(single("idle_resident/" + target.name, each, "KiB", count));
}

void raise_files() {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
}

}  // namespace
}  // namespace modelpool::bench

int main(int argc, char** argv) {
  using namespace modelpool;         // NOLINT(google-build-using-namespace)
  using namespace modelpool::bench;  // NOLINT(google-build-using-namespace)
  Flags flags("Asks a door, and measures. JSON on stdout.", "bench_door_load");
  std::string what;
  std::vector<Target> targets;
  std::uint64_t count = 0;
  unsigned rounds = 1, rate = 20;
  double seconds = 5;
  bool with_tls = false, with_memory = false;
  flags.add("--measure", "WHAT", &what, "latency, rate, streams or idle");
  flags.require("--measure");
  flags.take_each(
      "--to", "NAME=PORT:PID",
      [&](const std::string& text) -> Result<> {
        auto target = parse_target(text);
        if (!target) return fail(target.error());
        targets.push_back(std::move(*target));
        return {};
      },
      "whom; may be given again");
  flags.require("--to");
  flags.add("--count", "N", &count, "answers, connections or streams");
  flags.add("--rounds", "N", &rounds, "turns of each [1]");
  flags.add("--seconds", "S", &seconds, "length of a turn [5]");
  flags.add("--rate", "N", &rate, "chunks a second [20]");
  flags.add("--tls", "", &with_tls, "by TLS, whatever the certificate");
  flags.add("--memory", "", &with_memory, "also what a stream costs PID");
  if (const auto code = flags.parse_or_end(argc, argv)) return *code;
  raise_files();
  boost::asio::ssl::context tls(boost::asio::ssl::context::tls_client);
  Report report("serve", "us");
  if (what == "latency") {
    measure_latency(report, targets, count);
  } else if (what == "rate") {
    measure_rate(report, targets, count, seconds, rounds);
  } else if (what == "streams") {
    measure_streams(report, targets, {count, rate, seconds, with_memory}, with_tls ? &tls : nullptr,
                    rounds);
  } else if (what == "idle") {
    measure_idle(report, targets.front(), count);
  } else {
    std::cerr << "door_load: nothing to measure is called " << what << std::endl;
    return 2;
  }
  report.print();
  return 0;
}
