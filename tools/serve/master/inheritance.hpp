// What a master hands to the program that is executed in its place: descriptors, and a text that
// says what they are, in a file without a name whose descriptor the environment names.
//
// Safety: one thread, which may change the environment.
//
// Crash: a program that dies before it has read it leaves workers that serve (meeting.hpp).
//
// Errors: kSystem; kInvalid where the text is another version's.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "between/fd.hpp"
#include "master/listeners.hpp"
#include "master/workers.hpp"
#include "modelpool/result.hpp"

namespace modelpool::serve {

struct Inheritance {
  struct Generation {
    std::uint32_t number = 0;
    Fd retire;
    std::vector<OpenSocket> listeners;
    std::vector<Workers::Process> workers;
    Fd balance;
  };

  Fd lock;
  Fd meeting;
  Fd lineage;
  pid_t coordinator = 0;  // a child of this process; 0: none is
  std::vector<std::string> of_systemd;
  std::map<std::string, std::string> models;  // ways_to_start
  Generation serving;
  std::vector<Generation> leaving;  // their workers only
};

// Puts it into the environment. The returned descriptor is what that names: it stays open until the
// program is executed. Where that fails, take_back.
Result<Fd> bequeath(const Inheritance& all);
void take_back();
// Takes it out of there; nullopt: nothing was handed on.
Result<std::optional<Inheritance>> inherit();

// For the program that is asked whether it could serve: which version it would be handed.
void announce_version();
// There: kInvalid if that is not this one.
Result<> check_version();

}  // namespace modelpool::serve
