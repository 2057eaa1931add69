#include "master/upgrade.hpp"

#include <fcntl.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>

#include <cerrno>

#include "master/notify.hpp"
#include "master/signals.hpp"
#include "master/wait_status.hpp"

namespace modelpool::serve {
namespace {

constexpr std::uint64_t kAskMax_ns = 20'000 * kMillisecond_ns;

void execute(std::vector<std::string> words) {
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
}

}  // namespace

Result<> Upgrade::ask() {
  std::vector<std::string> words = words_;
  words.emplace_back("--check-config");
  const pid_t pid = fork();
  if (pid < 0) return fail_errno(errno, "start " + words_[0] + " --check-config");
  if (pid == 0) {
    reset_signals();
    forget_supervisor();
    // With whatever it starts it ends with us, and when it takes too long.
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    announce_version();
    // What it would serve is not for the log; what is wrong is.
    dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDOUT_FILENO);
    serve::execute(std::move(words));
    const std::string text = "poolserve: unable to execute " + words_[0] + "\n";
    static_cast<void>(!write(STDERR_FILENO, text.data(), text.size()));
    _exit(127);
  }
  asked_ = pid;
  due_ns_ = clock_ns() + kAskMax_ns;
  answer_ = Answer::kNone;
  return {};
}

void Upgrade::step() {
  if (clock_ns() < due_ns_) return;
  spdlog::error("{} --check-config takes longer than {} s", words_[0],
                kAskMax_ns / 1'000 / kMillisecond_ns);
  due_ns_ = kNever_ns;
  give_up();
}

bool Upgrade::ended(pid_t pid, int status) {
  if (pid != asked_) return false;
  asked_ = 0;
  due_ns_ = kNever_ns;
  answer_ = status == 0 ? Answer::kYes : Answer::kNo;
  if (status != 0) spdlog::error("{} --check-config ended with {}", words_[0], how_ended(status));
  return true;
}

void Upgrade::give_up() const {
  if (asked_ != 0 && kill(-asked_, SIGKILL) != 0) kill(asked_, SIGKILL);
}

Error Upgrade::execute(const Inheritance& all) {
  const auto file = bequeath(all);
  if (!file) return file.error();
  spdlog::info("executing {} in this process's place", words_[0]);
  serve::execute(words_);
  const int error = errno;
  take_back();
  return fail_errno(error, "execute " + words_[0]).value();
}

}  // namespace modelpool::serve
