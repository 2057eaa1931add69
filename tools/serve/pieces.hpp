// What is left of some pieces of bytes that are written together.
//
// Safety: plain values; the bytes are the caller's until keep().
//
// Errors: none.
#pragma once

#include <algorithm>
#include <array>
#include <boost/asio/buffer.hpp>
#include <cstddef>
#include <string>
#include <string_view>

namespace modelpool::serve {

class Pieces {
 public:
  explicit Pieces(std::string_view first, std::string_view second = {},
                  std::string_view third = {}, std::string_view fourth = {})
      : pieces_{first, second, third, fourth} {}
  Pieces(const Pieces&) = delete;
  Pieces& operator=(const Pieces&) = delete;

  bool empty() const {
    return std::all_of(pieces_.begin(), pieces_.end(), [](auto piece) { return piece.empty(); });
  }
  std::array<boost::asio::const_buffer, 4> buffers() const {
    std::array<boost::asio::const_buffer, 4> result;
    std::transform(pieces_.begin(), pieces_.end(), result.begin(),
                   [](auto piece) { return boost::asio::buffer(piece); });
    return result;
  }
  void consume(std::size_t bytes) {
    for (std::string_view& piece : pieces_) {
      const std::size_t some = std::min(bytes, piece.size());
      piece.remove_prefix(some);
      bytes -= some;
    }
  }
  // Copies what is left, once: from here on the caller's bytes may go.
  void keep() {
    if (is_kept_) return;
    is_kept_ = true;
    for (const std::string_view piece : pieces_) kept_ += piece;
    pieces_ = {kept_};
  }

 private:
  std::array<std::string_view, 4> pieces_;
  std::string kept_;
  bool is_kept_ = false;
};

}  // namespace modelpool::serve
