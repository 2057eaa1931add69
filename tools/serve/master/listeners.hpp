// Listening sockets: opened, taken from systemd or from who listened before.
//
// A Unix socket is bound under a name of its own and then renamed, so its file is replaced in one
// step and never absent.
//
// Safety: one thread.
//
// Crash: the file of a Unix socket stays; the next who opens it sees that nobody listens.
//
// Errors: kInvalid for an address that is none, kSystem ("it is taken by nginx (pid 12)").
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "between/worker_start.hpp"
#include "modelpool/result.hpp"

namespace modelpool::serve {

// A listening socket, and by which address it was asked for.
struct OpenSocket {
  std::string address;
  Fd fd;
};

// LISTEN_FDS, by what each is bound to; taken out of the environment.
std::vector<OpenSocket> sockets_of_systemd();

// All of them or none, in that order. What `present` has is taken from there, the rest opened;
// after an error all that was in it is there again.
Result<std::vector<OpenListener>> open_listeners(const std::vector<config::Listener>& wanted,
                                                 std::vector<OpenSocket>& present);

// Mode and group of a Unix socket's file, as the listener says.
Result<> set_access(const config::Listener& listener);

// "127.0.0.1:43567": what the socket is bound to, which says the port where 0 was asked for.
std::string bound_to(const OpenListener& listener);
std::string bound_to(const OpenSocket& socket);

// The file of a Unix socket that nobody will listen on any more.
void remove_file(const OpenListener& listener);

// A stream or packet socket listening at that path, at once and whole; what is there is replaced.
// Its file is ours alone (0600), but for what `prepare` does to it before it has its name.
using PrepareFile = std::function<Result<>(const std::string& file)>;
Result<Fd> listen_at_path(const std::string& path, int type, const PrepareFile& prepare = {});
// Does somebody listen there?
bool is_listening(const std::string& path, int type);

// A duplicate that closes on exec.
Fd duplicate(const Fd& fd);

}  // namespace modelpool::serve
