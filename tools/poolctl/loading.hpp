// Loading a model from the command line: what `lease --start` and `load` share.
//
// Safety: the main thread only.
//
// Crash: killed, what it started before it was ready is ended by the coordinator (P6); what was
// ready stays.
//
// Errors: a message on stderr and an exit code like those of timeout(1) (common.hpp).
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "answer.hpp"
#include "base/port.hpp"
#include "command.hpp"
#include "common.hpp"
#include "modelpool/pool.hpp"

namespace modelpool::poolctl {

struct LoadOptions {
  std::string verb;     // of the command, for messages: "lease"
  std::string command;  // what its command line is called there: "--start"
  std::string model;
  std::string address;
  std::string ready = "tcp";
  std::string log;
  std::string tag;
  std::uint64_t timeout_ns = kNever_ns;  // not given
  bool has_timeout() const { return timeout_ns != kNever_ns; }
  std::uint64_t busy_timeout_ns = 0;
  std::optional<Duration> keep_alive;
  std::uint64_t size_bytes = 0;
  bool pin = false;
  bool any_listener = false;
  bool may_load = true;                // there is a command line
  std::optional<TenantNeed> tenant{};  // it is for one
  // Told what it waits for, again and again; "" before a message is printed.
  std::function<void(const std::string& phase)> progress{};
};

// How to load the model: the command line and the address, with a port filled in.
struct LoadPlan {
  std::vector<std::string> argv;
  std::string program;  // looked for before it is started; "": that cannot be told
  std::string address;
  ReadyCheck check;
  Endpoint endpoint;
  HeldPort port;  // of the address, if it was picked here
};
// {port} in these words and in the address becomes a free port. Errors: kInvalid, kSystem.
Result<LoadPlan> make_load_plan(const LoadOptions& options, std::vector<std::string> words);

// The options that say how to load, of a command.
void add_load_options(CLI::App* command, const std::shared_ptr<LoadOptions>& options,
                      CLI::Option* needed);
void add_timeout(CLI::App* command, const std::shared_ptr<LoadOptions>& options,
                 const std::string& help);
void add_tag(CLI::App* command, const std::shared_ptr<LoadOptions>& options,
             const std::string& help);
void add_wait_options(CLI::App* command, const std::shared_ptr<LoadOptions>& options);

// Joins the pool and asks for the model: a lease on it, or the ticket to load it. 0, or the exit
// code; then it has complained.
int ask(const Context& context, const LoadOptions& options, SignalInbox& inbox,
        std::optional<Pool>* pool, Grant* grant);
// Complains and returns the exit code.
int refuse(const LoadOptions& options, const Error& error);

// A lease on the model: it is loaded, or was loaded here by the plan (which is null without one).
struct Loaded {
  std::optional<Pool> pool;  // of which the lease is
  Lease lease;
  bool here = false;
};
// 0, or the exit code; then it has complained.
int obtain(const Context& context, const LoadOptions& options, LoadPlan* plan, SignalInbox& inbox,
           Loaded* loaded);

}  // namespace modelpool::poolctl
