// A small model server for the demo and the tests: real HTTP, real memory, and every bad habit a
// backend may have, by flag. It always ends by itself after --max-lifetime.
//
// One thread takes the signals, from the start on; a pool of threads serves the requests. It ends
// with _exit, whatever its requests do, as a server that is told to stop does.
#include <fcntl.h>
#include <httplib.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/duration.hpp"
#include "base/name.hpp"
#include "base/number.hpp"
#include "base/process.hpp"
#include "base/program.hpp"
#include "base/size.hpp"
#include "base/text.hpp"
#include "base/time.hpp"
#include "flags/flags.hpp"
#include "modelpool/settings.hpp"

namespace modelpool {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr std::size_t kThreads = 64;  // requests served at once
constexpr std::size_t kTokensMax = 4096;
constexpr std::uint64_t kAnswerMax_ms = 3'600'000;
constexpr int kGrandchildrenMax = 64;
// All that ask a process to end; --ignore-sigterm takes SIGTERM out.
constexpr int kEndSignals[] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2};

struct Options {
  int port = -1;
  std::string unix_path;
  std::string name = "demo";
  std::string fail_load;
  std::string report;
  bool ignore_sigterm = false;
  int grandchildren = 0;
  std::uint64_t memory_bytes = 0;
  std::uint64_t load_time_ns = 0;
  std::uint64_t stop_time_ns = 0;
  std::uint64_t exit_after_ns = 0;  // 0 = stays
  std::uint64_t max_lifetime_ns = 600 * kSecond_ns;
};

std::atomic<int> in_service{0};

// Counts a request from its beginning until its last byte is handed over.
class InService {
 public:
  InService() { in_service.fetch_add(1); }
  ~InService() { in_service.fetch_sub(1); }
  InService(const InService&) = delete;
  InService& operator=(const InService&) = delete;
};

void sleep_ns(std::uint64_t duration_ns) {
  std::this_thread::sleep_for(std::chrono::nanoseconds(duration_ns));
}

[[noreturn]] void end(const Options& options, int status) {
  if (!options.unix_path.empty()) unlink(options.unix_path.c_str());
  std::fflush(nullptr);
  _exit(status);
}

// One line, in one write: several backends share the file.
void report_signal(const Options& options, int signal) {
  if (options.report.empty()) return;
  const std::string line = "pid=" + std::to_string(getpid()) + " model=" + options.name +
                           " signal=" + signal_text(signal) +
                           " in_service=" + std::to_string(in_service.load()) + "\n";
  const Fd file(open(options.report.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!file || write(file.get(), line.data(), line.size()) < 0) {
    std::fprintf(stderr, "unable to write %s: %s\n", options.report.c_str(), std::strerror(errno));
  }
}

sigset_t end_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : kEndSignals) sigaddset(&signals, signal);
  return signals;
}

// Until the end: --stop-time after the first signal, or of the lifetime. REQUIRES: the signals are
// blocked in every thread.
[[noreturn]] void take_signals(const Options& options, std::uint64_t started_ns) {
  const sigset_t signals = end_signals();
  std::uint64_t until_ns = add_ns(started_ns, options.max_lifetime_ns);
  bool asked = false;
  for (;;) {
    const std::uint64_t left_ns = age_ns(until_ns, now_ns());
    if (left_ns == 0) {
      if (!asked) std::fprintf(stderr, "%s: lifetime over\n", options.name.c_str());
      end(options, 0);
    }
    timespec wait{};
    wait.tv_sec = static_cast<time_t>(left_ns / kSecond_ns);
    wait.tv_nsec = static_cast<long>(left_ns % kSecond_ns);
    const int signal = sigtimedwait(&signals, nullptr, &wait);
    if (signal < 0) continue;
    report_signal(options, signal);
    if (asked || (signal == SIGTERM && options.ignore_sigterm)) continue;
    asked = true;
    until_ns = std::min(until_ns, add_ns(now_ns(), options.stop_time_ns));
  }
}

// In the group of the backend, asleep until killed. Ignores what its parent ignores.
void start_grandchildren(const Options& options) {
  for (int i = 0; i < options.grandchildren; ++i) {
    const pid_t pid = fork();
    if (pid < 0) {
      std::fprintf(stderr, "unable to fork a grandchild: %s\n", std::strerror(errno));
      end(options, kExitFailed);
    }
    if (pid > 0) continue;
    if (options.ignore_sigterm) signal(SIGTERM, SIG_IGN);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    sleep_ns(options.max_lifetime_ns);
    _exit(0);
  }
}

// Resident, not only mapped: every page is written.
void take_memory(const Options& options) {
  if (options.memory_bytes == 0) return;
  void* memory = mmap(nullptr, options.memory_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    std::fprintf(stderr, "unable to take %s of memory: %s\n",
                 format_size(options.memory_bytes).c_str(), std::strerror(errno));
    end(options, kExitFailed);
  }
  const auto page_bytes = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  auto* bytes = static_cast<volatile unsigned char*>(memory);
  for (std::uint64_t at = 0; at < options.memory_bytes; at += page_bytes) bytes[at] = 1;
}

std::string error_json(const std::string& text) {
  return nlohmann::ordered_json{{"error", escape(text)}}.dump();
}

void refuse(httplib::Response& response, const std::string& text) {
  response.status = 400;
  response.set_content(error_json(text), "application/json");
}

// A token a word of the prompt, again and again.
std::string token(std::string_view prompt, std::size_t index) {
  std::vector<std::string_view> words;
  for (std::size_t at = 0; at < prompt.size();) {
    const std::size_t start = prompt.find_first_not_of(' ', at);
    if (start == std::string_view::npos) break;
    at = std::min(prompt.find(' ', start), prompt.size());
    words.push_back(prompt.substr(start, at - start));
  }
  const std::string word(words.empty() ? "token" : words[index % words.size()]);
  return index == 0 ? word : " " + word;
}

struct Completion {
  bool is_chat = false;
  std::string prompt;
  std::uint64_t tokens = 16;
  std::uint64_t duration_ms = 0;
  bool stream = false;
};

// What the last message says; nothing where that is no text.
std::string last_message(const nlohmann::json& json) {
  const auto messages = json.find("messages");
  if (messages == json.end() || !messages->is_array() || messages->empty()) return {};
  const nlohmann::json& last = messages->back();
  const bool is_text = last.is_object() && last.contains("content") && last["content"].is_string();
  return is_text ? last["content"].get<std::string>() : std::string();
}

Result<Completion> read_completion(const std::string& body, bool is_chat) {
  const auto wrong = [](const std::string& reason) {
    return fail(Errc::kInvalid, "unable to read the request: " + reason);
  };
  const nlohmann::json json = nlohmann::json::parse(body, nullptr, false);
  if (!json.is_object()) return wrong("a JSON object was expected");
  Completion completion;
  completion.is_chat = is_chat;
  if (is_chat) completion.prompt = last_message(json);
  const auto read_number = [&json](const char* key, std::uint64_t max, std::uint64_t& to) {
    const auto found = json.find(key);
    if (found == json.end()) return true;
    if (!found->is_number_unsigned() || found->get<std::uint64_t>() > max) return false;
    to = found->get<std::uint64_t>();
    return true;
  };
  if (const auto prompt = json.find("prompt"); prompt != json.end()) {
    if (!prompt->is_string()) return wrong("prompt is not a string");
    completion.prompt = prompt->get<std::string>();
  }
  if (!read_number("max_tokens", kTokensMax, completion.tokens)) {
    return wrong("max_tokens is not a number from 0 to " + std::to_string(kTokensMax));
  }
  if (!read_number("ms", kAnswerMax_ms, completion.duration_ms)) {
    return wrong("ms is not a number from 0 to " + std::to_string(kAnswerMax_ms));
  }
  if (const auto stream = json.find("stream"); stream != json.end()) {
    if (!stream->is_boolean()) return wrong("stream is neither true nor false");
    completion.stream = stream->get<bool>();
  }
  return completion;
}

// In OpenAI's shape: of a completion, of a chat, or of a piece of a chat that is streamed.
nlohmann::ordered_json completion_json(const Options& options, const Completion& completion,
                                       const std::string& text, const char* finish_reason) {
  nlohmann::ordered_json choice{{"index", 0}};
  if (!completion.is_chat) {
    choice["text"] = text;
  } else if (completion.stream) {
    choice["delta"] = {{"content", text}};
  } else {
    choice["message"] = {{"role", "assistant"}, {"content", text}};
  }
  choice["finish_reason"] = finish_reason == nullptr ? nlohmann::ordered_json() : finish_reason;
  const char* const object = !completion.is_chat ? "text_completion"
                             : completion.stream ? "chat.completion.chunk"
                                                 : "chat.completion";
  return {{"id", "demo-" + std::to_string(getpid())},
          {"object", object},
          {"created", 0},
          {"model", options.name},
          {"pid", getpid()},
          {"choices", nlohmann::ordered_json::array({choice})}};
}

// Server-sent events, a token each, spread over the request's duration.
void stream_completion(const Options& options, const Completion& completion,
                       httplib::Response& response) {
  struct Stream {
    Completion completion;
    std::uint64_t next = 0;
    InService counted;
  };
  auto stream = std::make_shared<Stream>();
  stream->completion = completion;
  response.set_chunked_content_provider(
      "text/event-stream", [&options, stream](std::size_t, httplib::DataSink& sink) {
        const Completion& wanted = stream->completion;
        const auto write = [&sink](const std::string& data) {
          const std::string event = "data: " + data + "\n\n";
          return sink.write(event.data(), event.size());
        };
        if (wanted.tokens == 0 || stream->next == wanted.tokens) {
          if (wanted.tokens == 0) sleep_ns(wanted.duration_ms * kMillisecond_ns);
          write(completion_json(options, wanted, "", "length").dump());
          write("[DONE]");
          sink.done();
          return true;
        }
        sleep_ns(wanted.duration_ms * kMillisecond_ns / wanted.tokens);
        const std::string text = token(wanted.prompt, stream->next++);
        return write(completion_json(options, wanted, text, nullptr).dump());
      });
}

void complete(const Options& options, bool is_chat, const httplib::Request& request,
              httplib::Response& response) {
  const Result<Completion> completion = read_completion(request.body, is_chat);
  if (!completion) return refuse(response, completion.error().text);
  if (completion->stream) return stream_completion(options, *completion, response);
  const InService counted;
  sleep_ns(completion->duration_ms * kMillisecond_ns);
  std::string text;
  for (std::uint64_t i = 0; i < completion->tokens; ++i) text += token(completion->prompt, i);
  nlohmann::ordered_json json = completion_json(options, *completion, text, "length");
  json["usage"] = {{"completion_tokens", completion->tokens}};
  response.set_content(json.dump(), "application/json");
}

void add_endpoints(httplib::Server& server, const Options& options) {
  server.Get("/health", [](const httplib::Request&, httplib::Response& response) {
    response.set_content("ok", "text/plain");
  });
  server.Get("/slow", [&options](const httplib::Request& request, httplib::Response& response) {
    const Result<std::uint64_t> duration_ms =
        parse_count(request.get_param_value("ms"), kAnswerMax_ms);
    if (!duration_ms) return refuse(response, duration_ms.error().text);
    const InService counted;
    sleep_ns(*duration_ms * kMillisecond_ns);
    response.set_content(nlohmann::ordered_json{{"model", options.name}, {"pid", getpid()}}.dump(),
                         "application/json");
  });
  server.Get("/hang", [&options](const httplib::Request&, httplib::Response&) {
    const InService counted;
    for (;;) sleep_ns(options.max_lifetime_ns);  // the process ends before
  });
  server.Get("/crash", [&options](const httplib::Request&, httplib::Response&) {
    end(options, kExitFailed);
  });
  for (const bool is_chat : {false, true}) {
    server.Post(is_chat ? "/v1/chat/completions" : "/v1/completions",
                [&options, is_chat](const httplib::Request& request, httplib::Response& response) {
                  complete(options, is_chat, request, response);
                });
  }
}

// Where it listens, or why it cannot.
Result<std::string> bind(httplib::Server& server, const Options& options) {
  if (options.unix_path.empty()) {
    const int port = options.port == 0 ? server.bind_to_any_port("127.0.0.1")
                     : server.bind_to_port("127.0.0.1", options.port) ? options.port
                                                                      : -1;
    if (port > 0) return "127.0.0.1:" + std::to_string(port);
    return fail_errno(errno, "listen on 127.0.0.1:" + std::to_string(options.port));
  }
  // What an earlier one that was killed left behind; a file is not ours to remove.
  struct stat status {};
  if (lstat(options.unix_path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode)) {
    unlink(options.unix_path.c_str());
  }
  server.set_address_family(AF_UNIX);
  if (server.bind_to_port(options.unix_path, 1)) return "unix:" + options.unix_path;
  return fail_errno(errno, "listen on unix:" + options.unix_path);
}

[[noreturn]] void run(const Options& options) {
  const std::uint64_t started_ns = now_ns();
  // Before any thread, so that all of them and the grandchildren inherit it.
  const sigset_t signals = end_signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  start_grandchildren(options);
  signal(SIGCHLD, SIG_IGN);  // grandchildren that end first are nobody's zombies
  std::thread([&options, started_ns] { take_signals(options, started_ns); }).detach();

  take_memory(options);
  sleep_ns(options.load_time_ns);
  if (!options.fail_load.empty()) {
    std::fprintf(stderr, "%s\n", escape(options.fail_load).c_str());
    end(options, kExitFailed);
  }

  httplib::Server server;
  server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  // Its default, SO_REUSEPORT, would let two backends listen on one port.
  server.set_socket_options([](socket_t socket) {
    const int on = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  });
  server.set_keep_alive_max_count(1);  // a connection that is kept open would keep a thread
  add_endpoints(server, options);
  const Result<std::string> address = bind(server, options);
  if (!address) {
    std::fprintf(stderr, "%s\n", address.error().text.c_str());
    _exit(kExitFailed);  // the path may be another's
  }
  if (options.exit_after_ns != 0) {
    std::thread([&options] {
      sleep_ns(options.exit_after_ns);
      end(options, 0);
    }).detach();
  }
  std::printf("%s: listening on %s, pid %d\n", options.name.c_str(), address->c_str(), getpid());
  std::fflush(stdout);
  server.listen_after_bind();
  std::fprintf(stderr, "unable to serve on %s\n", address->c_str());
  end(options, kExitFailed);
}

Result<Options> read_options(int argc, char** argv, std::string& help) {
  Options options;
  Flags flags(
      "A small HTTP model server on 127.0.0.1 or a Unix socket, for modelpool's demo and tests.\n"
      "GET /health, /slow?ms=N, /hang, /crash; POST /v1/completions {prompt, max_tokens, ms, "
      "stream},\n/v1/chat/completions {messages, ...}.",
      "demo_backend");
  flags.add("--port", "N", &options.port, "on 127.0.0.1; 0 takes a free one and prints it");
  flags.add("--unix", "PATH", &options.unix_path, "listen on this socket instead");
  flags.add("--name", "MODEL", &options.name, "the model it serves [demo]");
  flags.take("--memory", "SIZE", parsed(&options.memory_bytes, parse_size),
             "memory it holds, resident [0]");
  flags.take("--load-time", "DURATION", parsed(&options.load_time_ns, parse_duration),
             "until it listens [0]");
  flags.add("--fail-load", "TEXT", &options.fail_load,
            "print this after the load time, end with 1");
  flags.add("--ignore-sigterm", "", &options.ignore_sigterm, "it and its grandchildren go on");
  flags.add("--grandchildren", "N", &options.grandchildren,
            "processes it forks that sleep until killed [0]");
  flags.take("--stop-time", "DURATION", parsed(&options.stop_time_ns, parse_duration),
             "from a signal to its end [0]");
  flags.take("--exit-after", "DURATION", parsed(&options.exit_after_ns, parse_duration),
             "end by itself so long after it listens [off]");
  flags.take("--max-lifetime", "DURATION", parsed(&options.max_lifetime_ns, parse_duration),
             "end in any case, grandchildren too [10m]");
  flags.add("--report", "FILE", &options.report,
            "append a line for each signal, with the requests in service then");
  const auto wrong = [](const std::string& reason) {
    return fail(Errc::kInvalid,
                "unable to read arguments: " + reason + "; see demo_backend --help");
  };
  const Result<std::string> asked = flags.parse(argc, argv);
  if (!asked) return wrong(asked.error().text);
  help = *asked;
  if (!help.empty()) return options;
  if ((options.port >= 0) != options.unix_path.empty()) return wrong("give --port or --unix");
  if (options.port > 65535) return wrong("a port is 0 to 65535");
  if (options.unix_path.size() > 107) return wrong("the path of --unix is longer than 107 bytes");
  if (options.grandchildren < 0 || options.grandchildren > kGrandchildrenMax) {
    return wrong("--grandchildren takes 0 to " + std::to_string(kGrandchildrenMax));
  }
  if (options.max_lifetime_ns == 0) return wrong("--max-lifetime cannot be off");
  if (const Result<> valid = check_model_name(options.name); !valid) {
    return wrong(valid.error().text);
  }
  return options;
}

}  // namespace
}  // namespace modelpool

int main(int argc, char** argv) {
  constexpr int kFailed = modelpool::kExitFailed;
  return modelpool::run_program("demo_backend", {kFailed, kFailed}, [&]() -> int {
    std::string help;
    // Static: threads use it until _exit.
    static const modelpool::Result<modelpool::Options> options =
        modelpool::read_options(argc, argv, help);
    if (!options) {
      std::fprintf(stderr, "%s\n", options.error().text.c_str());
      return modelpool::kExitUsage;
    }
    if (help.empty()) modelpool::run(*options);
    std::fputs(help.c_str(), stdout);
    return 0;
  });
}
