// What backends and devices take, as modelpool-sample measures it (sample/): asked for as often as
// it is worth, and published in the segment, for whoever counts by it.
//
// Nothing that enters a driver runs in this process: a thread that a driver holds would keep the
// pool's lock after SIGKILL (P10). The program is executed with nothing of ours but a socket, and
// killed and started again when it does not answer. What it says is input.
//
// Every other second while something is loaded that could be limited, or waits: there is a limit of
// memory, or a device. Else each minute, and soon after something was loaded. Not at all while
// nothing is.
//
// Safety: one thread, the loop's.
//
// Crash: the program ends with this process. What was published stays until the next coordinator
// has measured.
//
// Errors: each is told once, until it has worked again. Without a measure what was declared and
// expected counts, and latest() stays what it was.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/kinds.hpp"
#include "base/need.hpp"
#include "helper_program.hpp"
#include "judge/samples.hpp"
#include "protocol/snapshot.hpp"
#include "sample_text.hpp"

namespace modelpool::coordinator {

class DeviceUse;

class Sampler {
 public:
  explicit Sampler(std::shared_ptr<Segment> segment);
  ~Sampler();  // kills the program, and does not wait for it

  // The newest one that is complete; nullptr before the first. Valid until the next take().
  const Sample* latest() const { return latest_.taken_ns == 0 ? nullptr : &latest_; }

  // Somebody waits for what the next ones say of devices: they follow each other as quickly as
  // they may until then (kHurry_ns), instead of every other second, and most leave the host's
  // memory out, which takes longer. To be called again for as long as that is so.
  void hurry_until(std::uint64_t until_ns) { hurry_until_ns_ = until_ns; }

  // Takes what was answered and publishes it. Before a snapshot is read that shows it.
  void take();
  // Asks anew if that is due. After everything else that a scan does.
  void look_after(const Snapshot& snapshot);
  std::uint64_t look_again_ns() const { return look_again_ns_; }  // as of the last look_after
  // Of a program that was started since the last call, to be watched; -1: none was.
  int take_new_fd();

 private:
  struct Asked;

  void read_socket();
  void take_line(std::string_view line);
  void finish(const SampleAnswer& answer, const Asked& asked);
  bool register_devices(const SampleAnswer& answer);
  void publish(const Sample& sample, const Bytes& foreign);
  void give_up_waiting();
  void fail(const std::string& cause, const std::string& text);
  void end_program();
  bool start_program();
  void ask(const Snapshot& snapshot);
  SampleRequest make_request(const Snapshot& snapshot, Asked* asked);
  std::uint64_t due_ns(const Snapshot& snapshot);
  std::uint64_t answer_due_ns() const;
  void say_once(const std::string& cause, const std::string& text);

  std::shared_ptr<Segment> segment_;
  const std::string path_;
  std::optional<HelperProgram> program_;
  bool is_new_fd_ = false;
  LineReader lines_;
  std::vector<ProcessHandle> killed_;  // and not gone yet: a driver may hold them
  std::unique_ptr<Asked> asked_;       // null: nothing is to be answered
  std::unique_ptr<DeviceUse> device_use_;
  // An answer whose devices could not be registered yet: the mutex was taken.
  std::optional<SampleAnswer> unregistered_;
  std::unique_ptr<Asked> unregistered_asked_;

  Sample latest_;
  std::uint64_t requests_ = 0;
  std::uint64_t host_asked_ns_ = 0;  // the last one for the host's memory
  std::uint64_t asked_ns_ = 0;       // when the last request was made
  std::uint64_t took_ns_ = 0;        // to answer it
  std::uint64_t hurry_until_ns_ = 0;
  std::uint64_t backends_hash_ = 0;  // of the last request: which there were, in which states
  std::uint64_t changed_ns_ = 0;     // when that was first seen to be another
  std::uint64_t idle_since_ns_ = 0;  // there is nothing to measure
  std::uint64_t retry_ns_ = 0;       // no program is started before
  std::uint64_t pause_ns_ = 0;       // the last one before that
  std::uint64_t devices_retry_ns_ = 0;
  std::uint64_t devices_pause_ns_ = 0;
  std::uint64_t look_again_ns_ = kNever_ns;
  std::set<std::string> said_;  // causes
};

}  // namespace modelpool::coordinator
