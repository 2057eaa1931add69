#include "sample_text.hpp"

#include <algorithm>
#include <charconv>

#include "base/need.hpp"
#include "base/text.hpp"

namespace modelpool::coordinator {
namespace {

constexpr std::size_t kUuidMax_bytes = 95;
constexpr std::size_t kBackendsMax = 4096;
constexpr std::size_t kNotesMax = 64;
constexpr std::size_t kNoteMax_bytes = 1024;

std::string_view take_word(std::string_view* text) {
  const std::size_t end = std::min(text->find(' '), text->size());
  const std::string_view word = text->substr(0, end);
  text->remove_prefix(std::min(end + 1, text->size()));
  return word;
}

template <class T>
bool read(std::string_view text, T* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return !text.empty() && error == std::errc() && end == text.data() + text.size();
}
bool read_size(std::string_view text, std::uint64_t* bytes) {
  return read(text, bytes) && *bytes <= kSampleSizeMax_bytes;
}
bool read_pid(std::string_view text, pid_t* pid) { return read(text, pid) && *pid > 0; }

tl::unexpected<Error> refuse(std::string_view line) {
  constexpr std::size_t kShown_bytes = 80;
  return fail(Errc::kInvalid, "\"" + escape(line.substr(0, kShown_bytes)) +
                                  (line.size() > kShown_bytes ? "...\"" : "\""));
}

}  // namespace

std::string request_text(const SampleRequest& request) {
  const std::string id = std::to_string(request.id);
  std::string text = "measure " + id +
                     (!request.with_devices ? " host\n"
                      : request.with_host   ? " all\n"
                                            : " devices\n");
  for (const SampleRequest::Backend& backend : request.backends) {
    text += "backend " + std::to_string(backend.ref.index) + " " +
            std::to_string(backend.ref.generation) + " " + std::to_string(backend.group);
    for (const ProcessIdentity& process : backend.processes)
      text += " " + std::to_string(process.pid) + "/" + std::to_string(process.start_ticks);
    text += "\n";
  }
  return text + "end " + id + "\n";
}

std::string host_text(const SampleAnswer& answer) {
  std::string text = "begin " + std::to_string(answer.id) + "\n";
  for (const SampleAnswer::Backend& backend : answer.backends) {
    text += "backend " + std::to_string(backend.ref.index) + " " +
            std::to_string(backend.ref.generation) + " " +
            (backend.host_bytes ? std::to_string(*backend.host_bytes) : "-");
    for (const pid_t pid : backend.processes) text += " " + std::to_string(pid);
    text += "\n";
  }
  for (const auto& [cause, note] : answer.notes) text += "note " + cause + " " + note + "\n";
  return text + "host\n";
}

std::string devices_text(const SampleAnswer& answer) {
  std::string text;
  for (const SampleAnswer::Device& device : answer.devices) {
    text += "device " + device.uuid + " " + std::to_string(device.total_bytes) + " " +
            std::to_string(device.free_bytes) + (device.knows_processes ? " known" : " unknown");
    for (const auto& [pid, bytes] : device.processes)
      text += " " + std::to_string(pid) + ":" + std::to_string(bytes);
    text += "\n";
  }
  return text + "end " + std::to_string(answer.id) + "\n";
}

// --- Lines ---------------------------------------------------------------------------------------

Result<> LineReader::add(std::string_view bytes) {
  pending_ += bytes;
  const std::size_t end = pending_.find('\n');
  if (std::min(end, pending_.size()) > line_max_) {
    pending_.clear();
    return fail(Errc::kInvalid, "a line that is too long");
  }
  return {};
}

std::optional<std::string> LineReader::take() {
  const std::size_t end = pending_.find('\n');
  if (end == std::string::npos) return std::nullopt;
  std::string line = pending_.substr(0, end);
  pending_.erase(0, end + 1);
  return line;
}

// --- Requests ------------------------------------------------------------------------------------

Result<std::optional<SampleRequest>> RequestReader::add(std::string_view line) {
  std::string_view words = line;
  const std::string_view what = take_word(&words);
  if (what == "measure") {
    SampleRequest request;
    const std::string_view id = take_word(&words);
    if (!read(id, &request.id)) return refuse(line);
    if (words != "all" && words != "host" && words != "devices") return refuse(line);
    request.with_host = words != "devices";
    request.with_devices = words != "host";
    request_ = std::move(request);
    return std::nullopt;
  }
  if (!request_) return refuse(line);
  if (what == "end") {
    std::uint64_t id = 0;
    if (!read(words, &id) || id != request_->id) return refuse(line);
    return std::exchange(request_, std::nullopt);
  }
  SampleRequest::Backend backend;
  if (what != "backend" || !read(take_word(&words), &backend.ref.index) ||
      !read(take_word(&words), &backend.ref.generation) ||
      !read(take_word(&words), &backend.group)) {
    return refuse(line);
  }
  while (!words.empty()) {
    const std::string_view word = take_word(&words);
    const std::size_t slash = std::min(word.find('/'), word.size());
    ProcessIdentity process;
    if (slash == word.size() || !read_pid(word.substr(0, slash), &process.pid) ||
        !read(word.substr(slash + 1), &process.start_ticks)) {
      return refuse(line);
    }
    backend.processes.push_back(process);
  }
  request_->backends.push_back(std::move(backend));
  return std::nullopt;
}

// --- Answers -------------------------------------------------------------------------------------

Result<> AnswerReader::add(std::string_view line) {
  std::string_view words = line;
  const std::string_view what = take_word(&words);
  bytes_ += line.size() + 1;
  if (bytes_ > kSampleMax_bytes) return fail(Errc::kInvalid, "an answer without end");
  if (answer_.is_complete) return refuse(line);
  if (!has_begun_) {
    std::uint64_t id = 0;
    if (what != "begin" || !read(words, &id) || id != answer_.id) return refuse(line);
    has_begun_ = true;
    return {};
  }
  const auto added = [&]() -> Result<> {
    if (what == "note") {
      std::string cause(take_word(&words));
      if (answer_.notes.size() >= kNotesMax) return refuse(line);
      answer_.notes.emplace_back(std::move(cause), escape(words.substr(0, kNoteMax_bytes)));
      return {};
    }
    if (what == "backend" && !answer_.has_host) return add_backend(words);
    if (what == "device" && answer_.has_host) return add_device(words);
    if (what == "host" && words.empty() && !answer_.has_host) {
      answer_.has_host = true;
      return {};
    }
    std::uint64_t id = 0;
    if (what == "end" && answer_.has_host && read(words, &id) && id == answer_.id) {
      answer_.is_complete = true;
      return {};
    }
    return refuse(line);
  }();
  return added ? added : refuse(line);
}

Result<> AnswerReader::add_backend(std::string_view words) {
  SampleAnswer::Backend backend;
  if (!read(take_word(&words), &backend.ref.index) ||
      !read(take_word(&words), &backend.ref.generation) ||
      answer_.backends.size() >= kBackendsMax) {
    return refuse(words);
  }
  const std::string_view bytes = take_word(&words);
  std::uint64_t host_bytes = 0;
  if (bytes != "-") {
    if (!read_size(bytes, &host_bytes)) return refuse(words);
    backend.host_bytes = host_bytes;
  }
  while (!words.empty()) {
    pid_t pid = 0;
    if (!read_pid(take_word(&words), &pid)) return refuse(words);
    backend.processes.push_back(pid);
  }
  answer_.backends.push_back(std::move(backend));
  return {};
}

Result<> AnswerReader::add_device(std::string_view words) {
  SampleAnswer::Device device;
  device.uuid = take_word(&words);
  const bool is_named = !device.uuid.empty() && device.uuid.size() <= kUuidMax_bytes &&
                        is_printable_utf8(device.uuid);
  if (!is_named || answer_.devices.size() >= kDevicesMax ||
      !read_size(take_word(&words), &device.total_bytes) ||
      !read_size(take_word(&words), &device.free_bytes) || device.free_bytes > device.total_bytes) {
    return refuse(words);
  }
  const std::string_view known = take_word(&words);
  if (known != "known" && known != "unknown") return refuse(words);
  device.knows_processes = known == "known";
  while (!words.empty()) {
    const std::string_view word = take_word(&words);
    const std::size_t colon = std::min(word.find(':'), word.size());
    std::pair<pid_t, std::uint64_t> process;
    if (colon == word.size() || !read_pid(word.substr(0, colon), &process.first) ||
        !read_size(word.substr(colon + 1), &process.second) ||
        process.second > device.total_bytes) {
      return refuse(words);
    }
    device.processes.push_back(process);
  }
  answer_.devices.push_back(std::move(device));
  return {};
}

}  // namespace modelpool::coordinator
