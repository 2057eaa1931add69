#include "wire/heads.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "serve/messages.hpp"

namespace modelpool::serve {
namespace {

std::string forwarded(std::string_view lines, RequestChanges changes = {}, bool is_ours = false) {
  if (changes.target.empty()) changes.target = "/";
  if (changes.host.empty()) changes.host = "backend";
  return request_head(request_of(lines), changes, is_ours);
}

// The values of a field in a head, each on a line.
std::string values(const std::string& head, std::string_view name) {
  std::string result;
  for (std::size_t at = 0; at < head.size();) {
    const std::size_t end = head.find("\r\n", at);
    const std::string line = head.substr(at, end - at);
    if (line.substr(0, name.size() + 2) == std::string(name) + ": ") {
      result += line.substr(name.size() + 2) + "\n";
    }
    at = end + 2;
  }
  return result;
}

TEST(RequestHead, IsRebuilt) {
  RequestChanges changes;
  changes.target = "/v1/x?y";
  changes.host = "127.0.0.1:9";
  changes.content_length = 7;
  changes.client = "10.0.0.7";
  changes.request_id = "id-1";
  EXPECT_EQ(forwarded("POST /m/a/v1/x?y HTTP/1.1\nHost: door\nAccept: */*\nCookie: c\nCookie: d\n"
                      "Content-Length: 99\n",
                      changes),
            "POST /v1/x?y HTTP/1.1\r\nHost: 127.0.0.1:9\r\nAccept: */*\r\nCookie: c\r\n"
            "Cookie: d\r\nX-Forwarded-For: 10.0.0.7\r\nX-Forwarded-Proto: http\r\n"
            "X-Forwarded-Host: door\r\nVia: 1.1 modelpool\r\nX-Request-Id: id-1\r\n"
            "Content-Length: 7\r\n\r\n");
}

TEST(RequestHead, LeavesOutWhatIsOfTheConnection) {
  const std::string head = forwarded(
      "GET / HTTP/1.1\nHost: a\nConnection: keep-alive, X-Mine, Accept\nConnection: x_other\n"
      "Keep-Alive: 1\nTE: trailers\nTrailer: a\nExpect: 100-continue\nProxy-Authorization: b\n"
      "proxy-connection: c\nX-Modelpool-Hops: 3\nx_modelpool_hops: 3\nUpgrade: h2c\n"
      "HTTP2-Settings: d\nX-Mine: e\nAccept: f\nX-Other: g\nContent_Length: 4\n"
      "Transfer_Encoding: chunked\nKept: h\n");
  EXPECT_EQ(head,
            "GET / HTTP/1.1\r\nHost: backend\r\nKept: h\r\nX-Forwarded-Proto: http\r\n"
            "X-Forwarded-Host: a\r\nVia: 1.1 modelpool\r\n\r\n");
}

TEST(RequestHead, KeepsWhatTheDoorSetsWhateverConnectionNames) {
  RequestChanges changes;
  changes.content_length = 3;
  changes.client = "10.0.0.7";
  changes.client_is_trusted = true;
  changes.request_id = "id";
  changes.backend_key = "secret";
  const std::string head = forwarded(
      "POST / HTTP/1.1\nHost: a\nContent-Length: 3\nAuthorization: Bearer x\nX-Forwarded-For: b\n"
      "X-Forwarded-Port: 1\nConnection: Host, Content-Length, Authorization, X-Forwarded-For, Via,"
      " X-Forwarded-Port, X-Request-Id, X-Forwarded-Host\n",
      changes);
  EXPECT_EQ(values(head, "Host"), "backend\n");
  EXPECT_EQ(values(head, "Content-Length"), "3\n");
  EXPECT_EQ(values(head, "Authorization"), "Bearer secret\n");
  EXPECT_EQ(values(head, "X-Forwarded-For"), "b, 10.0.0.7\n");
  EXPECT_EQ(values(head, "X-Forwarded-Port"), "1\n");
  EXPECT_EQ(values(head, "X-Forwarded-Host"), "a\n");
  EXPECT_EQ(values(head, "X-Request-Id"), "id\n");
  EXPECT_EQ(values(head, "Via"), "1.1 modelpool\n");
  EXPECT_EQ(values(head, "Connection"), "");
}

TEST(RequestHead, FramesTheBodyItself) {
  RequestChanges changes;
  changes.chunked = true;
  std::string head = forwarded("POST / HTTP/1.1\nHost: a\nContent-Length: 9\n", changes);
  EXPECT_EQ(values(head, "Transfer-Encoding"), "chunked\n");
  EXPECT_EQ(values(head, "Content-Length"), "");
  head = forwarded("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n");
  EXPECT_EQ(values(head, "Transfer-Encoding"), "");
  EXPECT_EQ(values(head, "Content-Length"), "0\n");
}

TEST(RequestHead, TellsTheWayOfATrustedSender) {
  const char* lines =
      "GET / HTTP/1.0\nHost: a\nX-Forwarded-For: 1.1.1.1\nX-Forwarded-For: 2.2.2.2\n"
      "X-Forwarded-Proto: https\nX-Forwarded-Host: b\nForwarded: for=1.1.1.1\nX-Real-IP: 1.1.1.1\n"
      "X_Forwarded_For: 3.3.3.3\nVia: 1.1 c\n";
  RequestChanges changes;
  changes.client = "::1";
  std::string head = forwarded(lines, changes);
  EXPECT_EQ(values(head, "X-Forwarded-For"), "::1\n");
  EXPECT_EQ(values(head, "X-Forwarded-Proto"), "http\n");
  EXPECT_EQ(values(head, "X-Forwarded-Host"), "a\n");
  EXPECT_EQ(values(head, "Forwarded"), "");
  EXPECT_EQ(values(head, "X-Real-IP"), "");
  EXPECT_EQ(values(head, "X_Forwarded_For"), "");
  EXPECT_EQ(values(head, "Via"), "1.1 c\n1.0 modelpool\n");
  changes.client_is_trusted = true;
  head = forwarded(lines, changes);
  EXPECT_EQ(values(head, "X-Forwarded-For"), "1.1.1.1, 2.2.2.2, ::1\n");
  EXPECT_EQ(values(head, "X-Forwarded-Proto"), "https\n");
  EXPECT_EQ(values(head, "X-Forwarded-Host"), "b\n");
  EXPECT_EQ(values(head, "Forwarded"), "for=1.1.1.1, for=\"[::1]\";proto=http\n");
  EXPECT_EQ(values(head, "X-Real-IP"), "1.1.1.1\n");
  EXPECT_EQ(values(head, "X_Forwarded_For"), "");
}

TEST(RequestHead, HasTheClientsKeysOnlyWhereTheyAreNotOurs) {
  const char* lines =
      "GET / HTTP/1.1\nHost: a\nAuthorization: Bearer x\nX-Api-Key: x\napi_key: x\n";
  std::string head = forwarded(lines);
  EXPECT_EQ(values(head, "Authorization"), "Bearer x\n");
  EXPECT_EQ(values(head, "X-Api-Key"), "x\n");
  EXPECT_EQ(forwarded(lines, {}, true).find("x\r\n"), std::string::npos);
  RequestChanges changes;
  changes.backend_key = "own";
  head = forwarded(lines, changes);
  EXPECT_EQ(values(head, "Authorization"), "Bearer own\n");
  EXPECT_EQ(values(head, "X-Api-Key"), "");
}

TEST(RequestHead, GoesOnWithAnUpgrade) {
  RequestChanges changes;
  changes.upgrade = "websocket";
  const std::string head = forwarded(
      "GET / HTTP/1.1\nHost: a\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Key: k\n",
      changes);
  EXPECT_EQ(values(head, "Connection"), "Upgrade\n");
  EXPECT_EQ(values(head, "Upgrade"), "websocket\n");
  EXPECT_EQ(values(head, "Sec-WebSocket-Key"), "k\n");
}

TEST(Heads, HaveNoValueThatEndsItsLine) {
  RequestChanges changes;
  changes.target = "/a\r\nX: y\x7f z";
  changes.host = "h\r\nX: y";
  changes.client = "c\nX: y";
  changes.request_id = std::string("i\r\0X: y", 8);
  changes.backend_key = "k\r\n\r\nGET / HTTP/1.1";
  const std::string head = forwarded("GET / HTTP/1.1\nHost: a\n", changes);
  EXPECT_EQ(head.find("\r\n\r\n"), head.size() - 4);
  EXPECT_EQ(head.substr(0, head.find("\r\n")), "GET /a%0D%0AX:%20y%7F%20z HTTP/1.1");
  EXPECT_EQ(values(head, "X"), "");
  EXPECT_EQ(values(head, "Host"), "h  X: y\n");
  EXPECT_EQ(values(head, "Authorization"), "Bearer k    GET / HTTP/1.1\n");

  AnswerChanges answer;
  answer.fields = {{"X-Modelpool-Model", "a\r\nX: y"}, {"Bad Name", "b"}, {"X:", "c"}};
  const std::string own = own_answer({}, answer, false);
  EXPECT_EQ(values(own, "X"), "");
  EXPECT_EQ(values(own, "X-Modelpool-Model"), "a  X: y\n");
  EXPECT_EQ(own.find("Bad"), std::string::npos);
}

TEST(AnswerHead, IsRebuilt) {
  AnswerChanges changes;
  changes.framing = Framing::kLength;
  changes.content_length = 3;
  changes.keep_open = true;
  changes.fields = {{"X-Modelpool-Model", "m"}, {"X-Request-Id", "id"}};
  EXPECT_EQ(
      answer_head(answer_to("HTTP/1.1 418 Short and stout\nServer: s\nDate: d\nContent-Length: 9\n"
                            "Connection: X-Mine\nX-Mine: a\nKeep-Alive: b\nTrailer: c\nUpgrade: d\n"
                            "Proxy-Authenticate: e\nX-Modelpool-Backend: f\nx-request-id: g\n"
                            "Access-Control-Allow-Origin: *\nSet-Cookie: h\nSet-Cookie: i\n"
                            "Content-Type: text/plain\n"),
                  changes),
      "HTTP/1.1 418 Short and stout\r\nServer: s\r\nDate: d\r\nSet-Cookie: h\r\nSet-Cookie: i\r\n"
      "Content-Type: text/plain\r\nVia: 1.1 modelpool\r\nX-Modelpool-Model: m\r\n"
      "X-Request-Id: id\r\nContent-Length: 3\r\n\r\n");
}

TEST(AnswerHead, VariesAsBothSay) {
  AnswerChanges changes;
  changes.fields = {{"Vary", "Origin"}};
  const auto answer = answer_to("HTTP/1.1 200 OK\nVary: Accept\n");
  EXPECT_EQ(values(answer_head(answer, changes), "Vary"), "Accept\nOrigin\n");
}

TEST(AnswerHead, HasADate) {
  const std::string date = values(answer_head(answer_to("HTTP/1.1 200 OK\n"), {}), "Date");
  ASSERT_EQ(date.size(), std::string("Sun, 06 Nov 1994 08:49:37 GMT\n").size()) << date;
  EXPECT_EQ(date.substr(25), " GMT\n");
}

TEST(AnswerHead, FramesTheBodyAsTheClientUnderstands) {
  const auto answer = answer_to("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n");
  AnswerChanges changes;
  changes.keep_open = true;
  changes.framing = framing_for(11, Framing::kUntilClose);
  std::string head = answer_head(answer, changes);
  EXPECT_EQ(values(head, "Transfer-Encoding"), "chunked\n");
  EXPECT_EQ(values(head, "Connection"), "");

  changes.client_version = 10;
  for (const Framing framing : {framing_for(10, Framing::kChunked), Framing::kChunked}) {
    changes.framing = framing;
    head = answer_head(answer, changes);
    EXPECT_EQ(values(head, "Transfer-Encoding"), "");
    EXPECT_EQ(values(head, "Content-Length"), "");
    EXPECT_EQ(values(head, "Connection"), "close\n");
  }
  changes.framing = framing_for(10, Framing::kLength);
  EXPECT_EQ(changes.framing, Framing::kLength);
  EXPECT_EQ(values(answer_head(answer, changes), "Connection"), "keep-alive\n");
  changes.keep_open = false;
  EXPECT_EQ(values(answer_head(answer, changes), "Connection"), "close\n");
}

TEST(AnswerHead, ToHeadKeepsTheLengthOfTheBackend) {
  const auto length = [](const char* lines, const char* method) {
    return values(answer_head(answer_to(lines, method), {}), "Content-Length");
  };
  EXPECT_EQ(length("HTTP/1.1 200 OK\nContent-Length: 9\n", "HEAD"), "9\n");
  EXPECT_EQ(length("HTTP/1.1 304 Not\nContent-Length: 9\n", "GET"), "9\n");
  EXPECT_EQ(length("HTTP/1.1 204 No\nContent-Length: 0\n", "GET"), "");
}

TEST(AnswerHead, SwitchesProtocols) {
  AnswerChanges changes;
  changes.upgrade = "websocket";
  const std::string head = answer_head(
      answer_to(
          "HTTP/1.1 101 S\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Accept: a\n"),
      changes);
  EXPECT_EQ(values(head, "Connection"), "Upgrade\n");
  EXPECT_EQ(values(head, "Upgrade"), "websocket\n");
  EXPECT_EQ(values(head, "Sec-WebSocket-Accept"), "a\n");
}

TEST(OwnAnswer, OfARefusalIsOfOpenAisShape) {
  Refusal refusal = refuse(404, "model_not_found", "no \"x\xff\"\n").value();
  refusal.retry_after_s = 7;
  refusal.wants_key = true;
  EXPECT_EQ(error_json(refusal),
            "{\"error\":{\"message\":\"no \\\"x\xef\xbf\xbd\\\"\\n\",\"type\":"
            "\"invalid_request_error\",\"code\":\"model_not_found\",\"param\":null}}");
  const std::string text = own_answer(answer_of(refusal), {}, false);
  EXPECT_EQ(text.substr(0, text.find("\r\n")), "HTTP/1.1 404 Not Found");
  EXPECT_EQ(values(text.substr(0, text.find("\r\n\r\n") + 2), "Retry-After"), "7\n");
  EXPECT_EQ(values(text.substr(0, text.find("\r\n\r\n") + 2), "WWW-Authenticate"), "Bearer\n");
  EXPECT_EQ(text.substr(text.find("\r\n\r\n") + 4), error_json(refusal));
  refusal.code.clear();
  EXPECT_NE(error_json(refusal).find("\"code\":null"), std::string::npos);

  AnswerReader reader("GET");
  ASSERT_TRUE(reader.read_head(text));
  EXPECT_EQ(reader.length(),
            error_json(refuse(404, "model_not_found", "no \"x\xff\"\n").value()).size());
  EXPECT_FALSE(reader.keeps_open());
}

TEST(OwnAnswer, ToHeadAndOf204HasNoBody) {
  OwnAnswer answer;
  answer.body = "{}";
  const std::string head = own_answer(answer, {}, true);
  EXPECT_EQ(head.find("\r\n\r\n"), head.size() - 4);
  EXPECT_EQ(values(head, "Content-Length"), "2\n");
  answer.status = 204;
  const std::string none = own_answer(answer, {}, false);
  EXPECT_EQ(none.find("\r\n\r\n"), none.size() - 4);
  EXPECT_EQ(values(none, "Content-Length"), "");
}

TEST(Chunks, AreFramed) {
  EXPECT_EQ(chunk_size_line(26), "1a\r\n");
  EXPECT_EQ(chunk_size_line(16 * 1024), "4000\r\n");
}

TEST(RequestId, IsTheClientsWhereItIsUsable) {
  const auto id = [](const std::string& lines) {
    return request_id_of(request_of("GET / HTTP/1.1\nHost: a\n" + lines));
  };
  EXPECT_EQ(id("X-Request-ID: a-b_C\n"), "a-b_C");
  EXPECT_EQ(id("X-Request-ID: " + std::string(128, 'a') + "\n"), std::string(128, 'a'));
  for (const std::string& lines :
       {std::string(), std::string("X-Request-Id:\n"), std::string("X-Request-Id: a b\n"),
        std::string("X-Request-Id: \xe4\n"), std::string("X-Request-Id: a\nX-Request-Id: a\n"),
        "X-Request-Id: " + std::string(129, 'a') + "\n"}) {
    const std::string made = id(lines);
    EXPECT_EQ(made.size(), 32u);
    EXPECT_EQ(made.find_first_not_of("0123456789abcdef"), std::string::npos);
    EXPECT_NE(made, id(lines));
  }
}

TEST(RequestId, FitsIntoATag) {
  EXPECT_EQ(tag_of("123e4567-e89b-12d3-a456-426614174000"), "123e4567e89b12d3a45642661417400");
  EXPECT_EQ(tag_of("--"), "");
}

}  // namespace
}  // namespace modelpool::serve
