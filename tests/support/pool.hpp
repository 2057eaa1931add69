// Small pools for tests: a segment that costs little, a model that is loaded without a process, and
// one look at everything.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pool/inside.hpp"
#include "support/scratch.hpp"

namespace modelpool::test {

// A writable mapping stays for ever, so a test's segment is small: 16 backends, 24 workers.
Capacities small_capacities();
// By name, as everywhere: {{"max_backends", "2"}}. Throws if a name or value is wrong.
Settings settings_of(const std::vector<std::pair<std::string, std::string>>& values);

// What these settings say about a model.
Effective effective_of(const Settings& settings, std::string_view model,
                       const Overrides* given_at_ready = nullptr);

// As a newer program would: gives the pool a setting that is not known here, and takes it back.
void publish_foreign(const Segment& segment, const ForeignSetting& setting);
void withdraw_foreign(const Segment& segment, Setting id);

// A pool in the scratch directory, with these settings if it is created here. Throw if they cannot.
std::shared_ptr<Segment> make_segment(
    const Scratch& scratch, const std::vector<std::pair<std::string, std::string>>& values = {},
    const Capacities& capacities = small_capacities());
Pool make_pool(const Scratch& scratch,
               const std::vector<std::pair<std::string, std::string>>& values = {},
               const Capacities& capacities = small_capacities());

// Of a result that should have failed: 0 and "" if it did not.
template <class T>
Errc code_of(const Result<T>& result) {
  return result ? Errc{} : result.error().code;
}
template <class T>
std::string text_of(const Result<T>& result) {
  return result ? std::string() : result.error().text;
}

// What acquire must have given; throw with its error otherwise.
LoadTicket ticket_for(Pool& pool, const std::string& model,
                      Deadline deadline = std::chrono::seconds(30));
Lease lease_on(Pool& pool, const std::string& model, Deadline deadline = std::chrono::seconds(30));
// Loads the model as an external backend, "127.0.0.1:1", and returns the loader's lease.
Lease load_external(Pool& pool, const std::string& model, const ReadyOptions& options = {});

Snapshot look(const Pool& pool);
Snapshot look(const std::shared_ptr<Segment>& segment);
// The live backend of a model as one more word: "ready", "none"...
std::string state_of(const Pool& pool, std::string_view model);

// A line of what is wrong with the pool; empty if nothing is.
std::string findings(const std::shared_ptr<Segment>& segment, bool settled = false);

// Is every worker row, lease, waiter and ticket gone but the rows of these processes?
bool nothing_left_but(const Pool& pool, const std::vector<pid_t>& workers);

}  // namespace modelpool::test
