// Not the product: a worker that answers 503, for tests of the master.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/signalfd.h>

#include <vector>
#include <variant>
#include <string>

#include "control.hpp"
#include "meeting.hpp"
#include "modelpool/pool.hpp"
#include "worker.hpp"

namespace modelpool::serve {

int run_worker(WorkerStart start) {
  PoolOptions options;
  options.dir = start.dir;
  options.create = false;
  auto pool = Pool::attach(start.pool, options);
  if (!pool) return 3;
  signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  const Fd terms(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  say(start.control, kSaysReady);
  for (;;) {
    std::vector<pollfd> all = {{terms.get(), POLLIN, 0}, {start.retire.get(), POLLIN, 0},
                               {start.control.get(), POLLIN, 0}, {start.meeting.get(), POLLIN, 0}};
    for (const auto& one : start.listeners) all.push_back({one.fd.get(), POLLIN, 0});
    poll(all.data(), all.size(), -1);
    if (all[0].revents != 0 || all[1].revents != 0) return 0;
    if (all[2].revents != 0) {
      const auto got = receive_control(start.control);
      if (std::holds_alternative<MasterGone>(got)) {
        finish_takeover(start);
        start.control.reset();
      }
      if (const auto* door = std::get_if<config::Door>(&got)) {
        start.door = std::make_shared<config::Door>(*door);
        say(start.control, kSaysDoor);
      }
    }
    if (all[3].revents != 0) {
      const Fd met(accept4(start.meeting.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      pollfd one{met.get(), POLLIN, 0};
      if (met && poll(&one, 1, 1000) > 0) answer_meeting(met.get(), start);
    }
    for (std::size_t i = 4; i < all.size(); ++i) {
      if (all[i].revents == 0) continue;
      const Fd client(accept4(all[i].fd, nullptr, nullptr, SOCK_CLOEXEC));
      if (!client) continue;
      char request[4096];
      pollfd one{client.get(), POLLIN, 0};
      if (poll(&one, 1, 1000) <= 0 || recv(client.get(), request, sizeof request, 0) <= 0) continue;
      const std::string body = "pid " + std::to_string(getpid()) + " models " +
                               std::to_string(start.door->models.size()) + "\n";
      const std::string answer =
          "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: " +
          std::to_string(body.size()) + "\r\n\r\n" + body;
      send(client.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
    }
  }
}

}  // namespace modelpool::serve
