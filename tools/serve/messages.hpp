// Short texts with descriptors, between processes that share a SOCK_SEQPACKET socket.
//
// Safety: one thread a socket; nothing blocks.
//
// Errors: false or nullopt where the other side is gone, its line is full, or nothing came.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "fd.hpp"

namespace modelpool::serve {

inline constexpr std::size_t kMessageMax_bytes = 64 * 1024;
inline constexpr std::size_t kDescriptorsMax = 253;  // of one message: SCM_MAX_FD

struct Message {
  std::string text;
  std::vector<Fd> fds;
};

bool send_message(int socket, const std::string& text, const std::vector<int>& fds = {});
// An empty text: the other side has gone.
std::optional<Message> receive_message(int socket);

}  // namespace modelpool::serve
