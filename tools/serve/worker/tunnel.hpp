// The bytes of a websocket, both ways, from the backend's 101 until one side ends.
//
// In neither direction is more held than a pipe's part: who does not read is not read from.
//
// Safety: the loop's thread. The socket stays while run() waits; who closes it ends this.
//
// Crash: both sides see the end of their connection.
//
// Errors: none: an end is all that can be told.
#pragma once

#include <string>

#include "modelpool/pool.hpp"
#include "worker/access_log.hpp"
#include "worker/client.hpp"
#include "worker/io.hpp"

namespace modelpool::serve {

class Tunnel {
 public:
  Tunnel(Client& client, Socket& upstream, Lease& lease, AccessLine& line);
  Tunnel(const Tunnel&) = delete;
  Tunnel& operator=(const Tunnel&) = delete;

  // `first`: what the backend sent behind its head.
  Task<> run(std::string first);
  TimePoint last_byte() const { return last_byte_; }  // in either direction
  // The last word was the backend's: it owes nobody an answer.
  bool waits_for_client() const { return waits_for_client_; }

 private:
  Task<> send_up();
  void passed(bool from_backend);

  Client& client_;
  Socket& upstream_;
  Lease& lease_;
  AccessLine& line_;
  Wake wake_;  // of send_up
  bool is_over_ = false;
  bool is_sending_ = true;
  bool waits_for_client_ = true;
  TimePoint last_byte_ = Clock::now();
};

}  // namespace modelpool::serve
