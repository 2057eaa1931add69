#include "wire/top_level.hpp"

#include <bitset>
#include <cstdint>
#include <cstring>
#include <optional>

#include "wire/tokens.hpp"

namespace modelpool::serve {
namespace {

constexpr std::size_t kNameRawMax_bytes = 4096;  // of a model's name, as it is written

tl::unexpected<Refusal> no_json(const std::string& reason) {
  return refuse(400, kNoJson, "unable to read the body as JSON: " + reason);
}

std::optional<unsigned> hex4(std::string_view text) {
  if (text.size() < 4) return std::nullopt;
  unsigned value = 0;
  for (const char c : text.substr(0, 4)) {
    const char low = lower(c);
    if (low >= '0' && low <= '9') {
      value = value * 16 + static_cast<unsigned>(low - '0');
    } else if (low >= 'a' && low <= 'f') {
      value = value * 16 + static_cast<unsigned>(low - 'a') + 10;
    } else {
      return std::nullopt;
    }
  }
  return value;
}

void append_utf8(std::string& out, unsigned code) {
  const auto put = [&](unsigned byte) { out += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0 | code >> 6);
    put(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    put(0xe0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3f));
    put(0x80 | (code & 0x3f));
  } else {
    put(0xf0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3f));
    put(0x80 | (code >> 6 & 0x3f));
    put(0x80 | (code & 0x3f));
  }
}

// Of a string that was found valid; nullopt: half a surrogate pair.
std::optional<std::string> unescaped(std::string_view raw) {
  std::string out;
  while (!raw.empty()) {
    const char c = raw.front();
    raw.remove_prefix(1);
    if (c != '\\') {
      out += c;
      continue;
    }
    const char kind = raw.front();
    raw.remove_prefix(1);
    if (kind != 'u') {
      constexpr std::string_view kFrom = "bfnrt", kTo = "\b\f\n\r\t";
      const std::size_t at = kFrom.find(kind);
      out += at == std::string_view::npos ? kind : kTo[at];
      continue;
    }
    unsigned code = *hex4(raw);
    raw.remove_prefix(4);
    if (code >= 0xdc00 && code < 0xe000) return std::nullopt;
    if (code >= 0xd800 && code < 0xdc00) {
      const auto second = raw.substr(0, 2) == "\\u" ? hex4(raw.substr(2)) : std::nullopt;
      if (!second || *second < 0xdc00 || *second >= 0xe000) return std::nullopt;
      code = 0x10000 + ((code - 0xd800) << 10) + (*second - 0xdc00);
      raw.remove_prefix(6);
    }
    append_utf8(out, code);
  }
  return out;
}

class Scanner {
 public:
  explicit Scanner(std::string_view body) : body_(body) {}

  Checked<TopLevel> scan() {
    enum class Next { kValue, kValueOrEnd, kKey, kKeyOrEnd, kAfter } next = Next::kValue;
    for (;;) {
      skip_blanks();
      if (next == Next::kAfter) {
        if (depth_ == 0) break;
        if (take(',')) {
          next = is_object() ? Next::kKey : Next::kValue;
        } else if (take(is_object() ? '}' : ']')) {
          --depth_;
        } else {
          return unreadable();
        }
        continue;
      }
      if (next == Next::kKeyOrEnd && take('}')) {
        --depth_;
        next = Next::kAfter;
      } else if (next == Next::kValueOrEnd && take(']')) {
        --depth_;
        next = Next::kAfter;
      } else if (next == Next::kKey || next == Next::kKeyOrEnd) {
        std::string_view raw;
        bool has_escapes = false;
        if (!take('"') || !string(raw, has_escapes)) return unreadable();
        skip_blanks();
        if (!take(':')) return unreadable();
        if (depth_ == 1) meet_key(raw, has_escapes);
        next = Next::kValue;
      } else if (depth_ == 1 && key_ == Key::kModel) {
        key_ = Key::kOther;
        if (const auto found = model(); !found) return tl::unexpected(found.error());
        next = Next::kAfter;
      } else if (peek() == '{' || peek() == '[') {
        if (depth_ == kJsonDepthMax) return no_json("more than 512 levels");
        key_ = Key::kOther;
        is_object_[depth_++] = peek() == '{';
        next = peek() == '{' ? Next::kKeyOrEnd : Next::kValueOrEnd;
        ++at_;
      } else {
        const bool is_stream = depth_ == 1 && key_ == Key::kStream;
        key_ = Key::kOther;
        const std::size_t start = at_;
        if (!scalar()) return unreadable();
        if (is_stream) found_.streams = body_.substr(start, at_ - start) == "true";
        next = Next::kAfter;
      }
    }
    if (at_ < body_.size()) return no_json("something follows it at byte " + std::to_string(at_));
    if (stream_keys_ > 1) found_.streams = false;
    return found_;
  }

 private:
  enum class Key { kOther, kModel, kStream };

  tl::unexpected<Refusal> unreadable() const {
    return no_json(at_ < body_.size() ? "see byte " + std::to_string(at_)
                                      : std::string("it ends too early"));
  }

  char peek() const { return at_ < body_.size() ? body_[at_] : '\0'; }
  bool take(char c) {
    if (at_ == body_.size() || body_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool is_object() const { return is_object_[depth_ - 1]; }
  void skip_blanks() {
    while (at_ < body_.size() &&
           (body_[at_] == ' ' || body_[at_] == '\n' || body_[at_] == '\t' || body_[at_] == '\r')) {
      ++at_;
    }
  }

  void meet_key(std::string_view raw, bool has_escapes) {
    key_ = Key::kOther;
    std::optional<std::string> decoded;
    if (has_escapes && raw.size() <= 6 * std::string_view("stream").size()) {
      decoded = unescaped(raw);
    }
    const std::string_view name = decoded ? std::string_view(*decoded) : raw;
    if (name == "model") key_ = Key::kModel;
    if (name == "stream") {
      key_ = Key::kStream;
      ++stream_keys_;
    }
  }

  Checked<> model() {
    if (found_.has_model) {
      return refuse(400, "model_named_twice",
                    "unable to choose a model: the body has \"model\" twice; send it once");
    }
    found_.value_at = at_;
    std::string_view raw;
    bool has_escapes = false;
    if (!take('"')) {
      return refuse(400, "bad_model_name",
                    "unable to choose a model: \"model\" is no string; send its name");
    }
    if (!string(raw, has_escapes)) return unreadable();
    const auto name = raw.size() > kNameRawMax_bytes ? std::nullopt : unescaped(raw);
    if (!name) {
      return refuse(400, "bad_model_name",
                    "unable to choose a model: \"model\" can be no model's name");
    }
    found_.has_model = true;
    found_.model = *name;
    found_.value_bytes = at_ - found_.value_at;
    return {};
  }

  // Up to the next byte that is not plain ASCII of a string, or close to it.
  void skip_plain() {
    constexpr std::uint64_t kOnes = 0x0101010101010101, kHighs = 0x8080808080808080;
    const auto has_zero = [](std::uint64_t word) { return (word - kOnes) & ~word & kHighs; };
    while (body_.size() - at_ >= sizeof(std::uint64_t)) {
      std::uint64_t word = 0;
      std::memcpy(&word, body_.data() + at_, sizeof(word));
      const std::uint64_t low = (word - kOnes * 0x20) & ~word & kHighs;
      if ((has_zero(word ^ kOnes * '"') | has_zero(word ^ kOnes * '\\') | low | (word & kHighs))) {
        return;
      }
      at_ += sizeof(word);
    }
  }

  // Behind the opening quote.
  bool string(std::string_view& raw, bool& has_escapes) {
    const std::size_t start = at_;
    skip_plain();
    while (at_ < body_.size()) {
      const char c = body_[at_];
      if (c == '"') {
        raw = body_.substr(start, at_++ - start);
        return true;
      }
      if (c == '\\') {
        has_escapes = true;
        if (!escape()) return false;
        skip_plain();
      } else if (static_cast<unsigned char>(c) >= 0x80) {
        if (!characters()) return false;
        skip_plain();
      } else if (static_cast<unsigned char>(c) < 0x20) {
        return false;
      } else {
        ++at_;
      }
    }
    return false;
  }

  // What is not ASCII, as far as it goes.
  bool characters() {
    const auto byte = [this](std::size_t at) { return static_cast<unsigned char>(body_[at]); };
    while (at_ < body_.size() && byte(at_) >= 0x80) {
      // Three bytes that no exception is about: most of what there is.
      if (body_.size() - at_ > 2 && byte(at_) > 0xe0 && byte(at_) < 0xed &&
          (byte(at_ + 1) & 0xc0) == 0x80 && (byte(at_ + 2) & 0xc0) == 0x80) {
        at_ += 3;
        continue;
      }
      const std::size_t bytes = utf8_character(body_.substr(at_, 4));
      if (bytes == 0) return false;
      at_ += bytes;
    }
    return true;
  }

  bool escape() {
    const char kind = at_ + 1 < body_.size() ? body_[at_ + 1] : '\0';
    if (kind == 'u') {
      if (!hex4(body_.substr(at_ + 2))) return false;
      at_ += 6;
      return true;
    }
    if (kind == '\0' || std::string_view("\"\\/bfnrt").find(kind) == std::string_view::npos) {
      return false;
    }
    at_ += 2;
    return true;
  }

  bool digits() {
    const std::size_t start = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    return at_ > start;
  }

  bool number() {
    take('-');
    if (!take('0') && !digits()) return false;
    if (take('.') && !digits()) return false;
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      return digits();
    }
    return true;
  }

  bool scalar() {
    if (take('"')) {
      std::string_view raw;
      bool has_escapes = false;
      return string(raw, has_escapes);
    }
    for (const std::string_view word : {"true", "false", "null"}) {
      if (body_.substr(at_, word.size()) == word) {
        at_ += word.size();
        return true;
      }
    }
    return number();
  }

  const std::string_view body_;
  std::size_t at_ = 0;
  std::size_t depth_ = 0;
  std::bitset<kJsonDepthMax> is_object_;
  Key key_ = Key::kOther;
  int stream_keys_ = 0;
  TopLevel found_;
};

}  // namespace

Checked<TopLevel> scan_top_level(std::string_view body) {
  if (body.substr(0, 3) == "\xef\xbb\xbf") return no_json("it begins with a BOM; leave it out");
  if (body.substr(0, 2).find('\0') != std::string_view::npos || body.substr(0, 2) == "\xff\xfe" ||
      body.substr(0, 2) == "\xfe\xff") {
    return no_json("it is not UTF-8; send UTF-8");
  }
  return Scanner(body).scan();
}

}  // namespace modelpool::serve
