#include "worker/event_stream.hpp"

#include <string>
#include <utility>

#include "wire/heads.hpp"

namespace modelpool::serve {
namespace {

// What the kernel holds for a client that does not read: else megabytes.
constexpr int kUnsentMax_bytes = 64 * 1024;

}  // namespace

Task<> stream_events(Service& service, EventsAsked asked, bool is_head, Client& client,
                     AnswerChanges changes, AccessLine& line) {
  changes.framing = framing_for(changes.client_version, Framing::kChunked);
  changes.keep_open = false;
  changes.fields.emplace_back("Cache-Control", "no-cache");
  changes.fields.emplace_back("X-Accel-Buffering", "no");  // nginx keeps it back otherwise
  http::header<false> head;
  head.version(11);
  head.result(http::status::ok);
  head.set(http::field::content_type, "text/event-stream");
  line.status = 200;
  client.hold_unsent(kUnsentMax_bytes);
  std::string before = answer_head(head, changes);
  const bool is_chunked = changes.framing == Framing::kChunked;
  EventFeed::Viewer viewer(service.events, std::move(asked), client.wake);
  bool is_there = co_await client.write(before);
  while (is_there && !is_head) {
    // Nothing is answered behind this: what it sends meanwhile is not kept.
    client.take(client.input().size());
    client.read(kPipe_bytes);
    const std::string text = viewer.take(kPipe_bytes);
    if (!text.empty()) {
      line.out_bytes += text.size();
      before = is_chunked ? chunk_size_line(text.size()) : std::string();
      is_there = co_await client.write(before, text, is_chunked ? "\r\n" : "");
    } else if (viewer.is_over() || service.is_finishing) {
      if (is_chunked) is_there = co_await client.write(kLastChunk);
      break;
    } else {
      co_await client.wake.wait();
      is_there = !client.has_left();
    }
  }
  if (!is_there) line.end = "the client left";
}

}  // namespace modelpool::serve
