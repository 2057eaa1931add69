#include "worker/access_log.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

namespace modelpool::serve {
namespace {

using Json = nlohmann::ordered_json;

std::string now_text() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  const std::time_t seconds = ms / 1000;
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  const std::size_t length = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  char fraction[8];
  std::snprintf(fraction, sizeof fraction, ".%03dZ", static_cast<int>(ms % 1000));
  return std::string(text, length) + fraction;
}

Json text_or_null(const std::string& text) { return text.empty() ? Json() : Json(text); }
Json ms_or_null(std::int64_t ms) { return ms < 0 ? Json() : Json(ms); }

Json as_json(const AccessLine& line) {
  return {{"time", now_text()},
          {"client", text_or_null(line.client)},
          {"request_id", line.request_id},
          {"key", text_or_null(line.key)},
          {"method", line.method},
          {"path", line.path},
          {"status", line.status == 0 ? Json() : Json(line.status)},
          {"model", text_or_null(line.model)},
          {"backend", text_or_null(line.backend)},
          {"in_bytes", line.in_bytes},
          {"out_bytes", line.out_bytes},
          {"wait_ms", ms_or_null(line.wait_ms)},
          {"first_byte_ms", ms_or_null(line.first_byte_ms)},
          {"total_ms", line.total_ms},
          {"end", text_or_null(line.end)}};
}

// key=value, as the JSON has them; a value with a blank or a quote in quotes.
std::string as_text(const AccessLine& line) {
  std::string text;
  const Json json = as_json(line);
  for (const auto& [key, value] : json.items()) {
    if (value.is_null()) continue;
    std::string shown = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    const bool is_plain = value.is_string() && shown.size() > 2 &&
                          shown.find_first_of(" \\=", 1) == std::string::npos;
    if (is_plain) shown = shown.substr(1, shown.size() - 2);
    text += text.empty() ? "" : " ";
    text += key == "time" ? shown : key + "=" + shown;
  }
  return text;
}

}  // namespace

Result<AccessLog> AccessLog::open(const config::Serve& config) {
  AccessLog log;
  log.is_json_ = config.access_log_json;
  if (config.access_log.empty()) return log;
  log.file_ =
      Fd(config.access_log == "-"
             ? fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)
             : ::open(config.access_log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640));
  if (!log.file_) return fail_errno(errno, "open the access log " + config.access_log);
  return log;
}

Result<> AccessLog::check(const config::Serve& config) {
  const std::string& path = config.access_log;
  if (path.empty() || path == "-") return {};
  // Without O_NONBLOCK a FIFO would wait for its reader.
  if (Fd(::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC | O_NONBLOCK))) return {};
  const bool is_absent = errno == ENOENT;
  const std::string folder = std::filesystem::path(path).parent_path().string();
  if (is_absent && access(folder.c_str(), W_OK | X_OK) == 0) return {};
  return fail_errno(errno, "open the access log " + path);
}

void AccessLog::write(const AccessLine& line) const {
  if (!file_) return;
  const std::string text =
      (is_json_ ? as_json(line).dump(-1, ' ', false, Json::error_handler_t::replace)
                : as_text(line)) +
      "\n";
  static_cast<void>(::write(file_.get(), text.data(), text.size()));
}

}  // namespace modelpool::serve
