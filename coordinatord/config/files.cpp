#include "config/files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/fd.hpp"
#include "base/size.hpp"
#include "base/text.hpp"

namespace modelpool::config {
namespace {

Result<Fd> open_regular(const std::string& path, const std::string& what, struct stat* status) {
  // Without O_NONBLOCK a FIFO would wait for its writer, and the program with it.
  Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file || fstat(file.get(), status) != 0) return fail_errno(errno, "read " + what);
  if (!S_ISREG(status->st_mode)) {
    return fail(Errc::kInvalid, "unable to read " + what + ": it is not a regular file");
  }
  return file;
}

}  // namespace

Result<std::string> read_regular_file(const std::string& path, const std::string& what,
                                      std::size_t max_bytes) {
  struct stat status {};
  const auto file = open_regular(path, what, &status);
  if (!file) return fail(file.error());
  std::string bytes;
  char chunk[16384];
  for (;;) {
    const ssize_t count = read(file->get(), chunk, sizeof chunk);
    if (count == 0) return bytes;
    if (count < 0) {
      if (errno == EINTR) continue;
      return fail_errno(errno, "read " + what);
    }
    bytes.append(chunk, static_cast<std::size_t>(count));
    if (bytes.size() > max_bytes) {
      return fail(Errc::kInvalid, "unable to read " + what + ": it is larger than " +
                                      format_size(max_bytes) + "; is it the right file?");
    }
  }
}

Result<std::string> read_secret(const std::string& path) {
  auto text = read_regular_file(path, escape(path), kSecretMax_bytes);
  if (!text) return text;
  while (text->ends_with('\n') || text->ends_with('\r')) text->pop_back();
  if (text->empty()) {
    return fail(Errc::kInvalid, "unable to use " + escape(path) +
                                    ": it is empty; write the secret "
                                    "into it");
  }
  if (text->find('\0') != std::string::npos) {
    return fail(Errc::kInvalid,
                "unable to use " + escape(path) + ": it has a zero byte in it; is it a text?");
  }
  return text;
}

Result<> check_file_is_there(const std::string& path) {
  struct stat status {};
  const auto file = open_regular(path, escape(path), &status);
  if (!file) return fail(file.error());
  return {};
}

Result<> check_folder_is_there(const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return fail_errno(errno, "use " + escape(path));
  if (S_ISDIR(status.st_mode)) return {};
  return fail(Errc::kInvalid, "unable to use " + escape(path) + ": it is no folder");
}

Result<> check_file_is_private(const std::string& path) {
  struct stat status {};
  const auto file = open_regular(path, escape(path), &status);
  if (!file) return fail(file.error());
  if ((status.st_mode & 077) == 0) return {};
  return fail(Errc::kInvalid, "unable to use " + escape(path) +
                                  ": others may open it; run chmod 600 " + escape(path));
}

std::string beside(const std::string& config_path, std::string_view name) {
  if (name.empty()) return {};
  std::error_code ignored;
  const std::filesystem::path folder =
      std::filesystem::absolute(config_path, ignored).parent_path();
  return (folder / name).lexically_normal().string();
}

}  // namespace modelpool::config
