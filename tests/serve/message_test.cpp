#include "wire/message.hpp"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "serve/messages.hpp"

namespace modelpool::serve {
namespace {

using namespace std::string_literals;

constexpr const char* kGet = "GET / HTTP/1.1\r\nHost: a\r\n";

// The status of the refusal; 0: accepted, -1: more is needed.
template <bool is_request>
int status_of(MessageReader<is_request> reader, std::string_view bytes,
              std::string* body = nullptr) {
  const auto head = reader.read_head(bytes);
  if (!head) {
    EXPECT_TRUE(head.error().close) << head.error().message;
    EXPECT_EQ(head.error().message.substr(0, 15), "unable to read ");
    return head.error().status;
  }
  if (*head == 0) return -1;
  bytes.remove_prefix(*head);
  std::array<char, 7> room{};
  while (!reader.is_whole()) {
    const auto taken = reader.read_body(bytes, room);
    if (!taken) {
      EXPECT_TRUE(taken.error().close);
      return taken.error().status;
    }
    bytes.remove_prefix(taken->in);
    if (body != nullptr) body->append(room.data(), taken->out);
    if (taken->in == 0) return -1;
  }
  return 0;
}

int request(std::string_view bytes, std::string* body = nullptr) {
  return status_of(RequestReader(), bytes, body);
}
int answer(std::string_view bytes, std::string_view method = "GET", std::string* body = nullptr) {
  return status_of(AnswerReader(method), bytes, body);
}
// A GET with these fields too.
int with(std::string_view fields) { return request(kGet + std::string(fields) + "\r\n"); }

TEST(Request, OfOneFramingIsTaken) {
  std::string body;
  EXPECT_EQ(request("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", &body), 0);
  EXPECT_EQ(body, "hello");
  body.clear();
  EXPECT_EQ(request("POST /x HTTP/1.1\r\nHost: a\r\ntransfer-encoding: \tCHUNKED \r\n\r\n"
                    "5\r\nhello\r\n00B;a=b;c=\"d\"\r\n, my worlds!\r\n0\r\nA: b\r\n\r\n",
                    &body),
            400);
  body.clear();
  EXPECT_EQ(request("POST /x HTTP/1.1\r\nHost: a\r\ntransfer-encoding: \tCHUNKED \r\n\r\n"
                    "5\r\nhello\r\n00C;a=b;c=\"d\"\r\n, my worlds!\r\n0\r\nA: b\r\n\r\n",
                    &body),
            0);
  EXPECT_EQ(body, "hello, my worlds!");
  EXPECT_EQ(with(""), 0);
  EXPECT_EQ(with("Empty:\r\nTab: a\tb\r\nLatin: \xe4\r\nX-_.!#$%&'*+^`|~9: c\r\n"), 0);
  EXPECT_EQ(request("\r\n\r\n"s + kGet + "\r\n"), 0);
}

TEST(Request, OfTwoFramingsIsRefused) {
  for (const char* fields : {
           "Transfer-Encoding: gzip\r\n",
           "Transfer-Encoding: gzip, chunked\r\n",
           "Transfer-Encoding: chunked, chunked\r\n",
           "Transfer-Encoding: chunked, identity\r\n",
           "Transfer-Encoding: chunked;q=1\r\n",
           "Transfer-Encoding: xchunked\r\n",
           "Transfer-Encoding: \"chunked\"\r\n",
           "Transfer-Encoding: chunked,\r\n",
           "Transfer-Encoding:\r\n",
           "Transfer-Encoding: identity\r\n",
           "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
           "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
           "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
           "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
           "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
           "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
           "Content-Length: 3\r\nTransfer-Encoding: gzip\r\n",
           "Content-Length: 3\r\nContent-Length: 3\r\n",
           "Content-Length: 3\r\nContent-Length: 4\r\n",
           "Content-Length: 3, 3\r\n",
           "Content-Length: 3,\r\n",
           "Content-Length: +3\r\n",
           "Content-Length: -3\r\n",
           "Content-Length: 3 3\r\n",
           "Content-Length: 0x3\r\n",
           "Content-Length: 3a\r\n",
           "Content-Length: 3.0\r\n",
           "Content-Length:\r\n",
           "Content-Length: 9223372036854775808\r\n",
           "Content-Length: 18446744073709551616\r\n",
           "Content-Length: 00000000000000000003\r\n",
       }) {
    EXPECT_EQ(with(fields), 400) << fields;
  }
  const std::string chunked = "Transfer-Encoding: chunked\r\n";
  EXPECT_EQ(request("POST / HTTP/1.0\r\nHost: a\r\n" + chunked + "\r\n0\r\n\r\n"), 400);
  EXPECT_EQ(request("POST / HTTP/1.1\r\nHost: a\r\n" + chunked + "\r\n0\r\n\r\n"), 0);
}

TEST(Request, HasOneHost) {
  EXPECT_EQ(request("GET / HTTP/1.1\r\n\r\n"), 400);
  EXPECT_EQ(request("GET / HTTP/1.0\r\n\r\n"), 0);  // RFC 9112, 3.2
  for (const char* host : {"a\r\nHost: a", "a\r\nHost: b", "", "a b", "a, b", "a/b", "u@a", "a:b",
                           "a:1:2", "[::1", "::1]", "[::1]x", ":80", "a?b", "a#b", "a\\b"}) {
    const std::string fields = " / HTTP/1.1\r\nHost: "s + host + "\r\n\r\n";
    EXPECT_EQ(request("GET" + fields), 400) << host;
  }
  EXPECT_EQ(request("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), 400);
  for (const char* host : {"a", "A.b-c_d", "a:", "a:80", "127.0.0.1:1", "[::1]", "[::1]:80"}) {
    EXPECT_EQ(request("GET / HTTP/1.1\r\nHost: "s + host + "\r\n\r\n"), 0) << host;
  }
}

TEST(Request, OfOtherLinesIsRefused) {
  for (const std::string& fields :
       {"A: b\r\n c\r\n"s, "A: b\r\n\tc\r\n"s, "A : b\r\n"s, "A\t: b\r\n"s, ": b\r\n"s, "A\r\n"s,
        "A B: c\r\n"s, "(A): c\r\n"s, "A\x01: b\r\n"s, "A: b\x01\r\n"s, "A: b\x7f\r\n"s,
        "A: b\0c\r\n"s, "A\0: b\r\n"s, "A: b\nC: d\r\n"s, "A: b\rC: d\r\n"s, "A: b\r\r\n"s,
        "\xe4: b\r\n"s, "Connection: a b\r\n"s, " A: b\r\n"s}) {
    EXPECT_EQ(with(fields), 400) << fields;
  }
  EXPECT_EQ(request("GET / HTTP/1.1\nHost: a\n\n"), 400);
  EXPECT_EQ(request("GET / HTTP/1.1\r\n Host: a\r\n\r\n"), 400);
  EXPECT_EQ(request("GET / HTTP/1.1\r\nHost: a\r\n\n"), 400);
  EXPECT_EQ(request("GET / HTTP/1.1\r\nHost: a\r\n\rX"), 400);
}

TEST(Request, OfAnotherFirstLineIsRefused) {
  for (const std::string& line : {"GET / HTTP/1.2"s,
                                  "GET / HTTP/0.9"s,
                                  "GET / HTTP/1.10"s,
                                  "GET / HTTP/1.1 "s,
                                  "GET /"s,
                                  "GET"s,
                                  "GET  / HTTP/1.1"s,
                                  "GET /  HTTP/1.1"s,
                                  " GET / HTTP/1.1"s,
                                  "GET\t/ HTTP/1.1"s,
                                  "GET /\tHTTP/1.1"s,
                                  "GET / http/1.1"s,
                                  "GET / HTTP/1,1"s,
                                  "GET / HTTX/1.1"s,
                                  "G(T / HTTP/1.1"s,
                                  "GET /a b HTTP/1.1"s,
                                  "GET /\x01 HTTP/1.1"s,
                                  "GET /\x7f HTTP/1.1"s,
                                  "GET /\0 HTTP/1.1"s,
                                  "GET /a#b HTTP/1.1"s,
                                  "GET a HTTP/1.1"s,
                                  "GET * HTTP/1.1"s,
                                  "GET a:80 HTTP/1.1"s,
                                  "GET ftp://a/ HTTP/1.1"s,
                                  "CONNECT a:80 HTTP/1.1"s,
                                  "CONNECT / HTTP/1.1"s,
                                  "TRACE / HTTP/1.1"s,
                                  "trace / HTTP/1.1"s,
                                  "OPTIONS ** HTTP/1.1"s}) {
    EXPECT_EQ(request(line + "\r\nHost: a\r\n\r\n"), 400) << line;
  }
  EXPECT_EQ(request("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), 0);
  EXPECT_EQ(request("GET /\xc3\xa4?%zz HTTP/1.1\r\nHost: a\r\n\r\n"), 0);
  EXPECT_EQ(request("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
  EXPECT_EQ(request("GET / HTTP/3\r\nHost: a\r\n\r\n"), 505);
  EXPECT_EQ(request("\x16\x03\x01"), 400);
}

TEST(Request, WithAnAbsoluteTargetForItsHostIsReduced) {
  const auto target = [](const std::string& line, const char* host) {
    RequestReader reader;
    const auto head = reader.read_head(line + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n");
    return head ? std::string(reader.head().target()) : std::to_string(head.error().status);
  };
  EXPECT_EQ(target("GET http://a/b?c", "a"), "/b?c");
  EXPECT_EQ(target("GET HTTPS://A:80", "a:80"), "/");
  EXPECT_EQ(target("GET http://a?c", "a"), "/?c");
  EXPECT_EQ(target("OPTIONS http://a", "a"), "*");
  EXPECT_EQ(target("GET http://b/b", "a"), "400");
  EXPECT_EQ(target("GET http://a:80/b", "a"), "400");
  EXPECT_EQ(target("GET http://u@a/b", "a"), "400");
  EXPECT_EQ(target("GET http:///b", "a"), "400");
  EXPECT_EQ(target("GET //a/b", "a"), "//a/b");
  RequestReader old;
  ASSERT_TRUE(old.read_head("GET http://a/b HTTP/1.0\r\n\r\n"));
  EXPECT_EQ(old.head()["Host"], "a");
}

TEST(Request, ThatIsTooLongIsRefusedBeforeItsEnd) {
  const std::string long_line(kHeadMax_bytes, 'a');
  EXPECT_EQ(request("GET /" + long_line), 414);
  EXPECT_EQ(request(kGet + ("A: " + long_line)), 431);
  EXPECT_EQ(request(std::string(kHeadMax_bytes - 1, 'a')), -1);
  std::string most = kGet;
  most += "A: ";
  most += std::string(kHeadMax_bytes - most.size() - 4, 'b');
  EXPECT_EQ(request(most + "\r\n\r\n"), 0);
  EXPECT_EQ(request(most + "b\r\n\r\n"), 431);
  std::string fields;
  for (std::size_t i = 1; i < kFieldsMax; ++i) fields += "A: b\r\n";
  EXPECT_EQ(with(fields), 0);
  EXPECT_EQ(with(fields + "A: b\r\n"), 431);
}

TEST(Request, WithAnotherExpectIsRefused) {
  const auto expects = [](const std::string& text) {
    RequestReader reader;
    EXPECT_TRUE(reader.read_head(text));
    return reader.expects_continue();
  };
  EXPECT_EQ(with("Expect: 200-ok\r\n"), 417);
  EXPECT_EQ(with("Expect: 100-continue, x\r\n"), 417);
  EXPECT_EQ(with("Expect: 100-continue\r\nExpect: x\r\n"), 417);
  const std::string field = "Host: a\r\nExpect: 100-Continue\r\nContent-Length: ";
  EXPECT_TRUE(expects("POST / HTTP/1.1\r\n" + field + "1\r\n\r\n"));
  EXPECT_FALSE(expects("POST / HTTP/1.1\r\n" + field + "0\r\n\r\n"));
  EXPECT_FALSE(expects("POST / HTTP/1.0\r\n" + field + "1\r\n\r\n"));
}

TEST(Request, IsTheSameInAnyPieces) {
  const std::string text =
      "\r\nPOST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
      "3;x=y\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nT: u\r\nV: w\r\n\r\n";
  const std::string second = "GET /second HTTP/1.1\r\nHost: a\r\n\r\n";
  RequestReader reader;
  std::string buffer, body;
  std::size_t fed = 0;
  const std::string all = text + second;
  for (int heads = 0; heads < 2; ++heads) {
    for (;;) {
      const auto taken = reader.read_head(buffer);
      ASSERT_TRUE(taken) << taken.error().message;
      buffer.erase(0, *taken);
      if (*taken > 0) break;
      ASSERT_LT(fed, all.size());
      buffer += all[fed++];
    }
    while (!reader.is_whole()) {
      std::array<char, 1> room{};
      const auto taken = reader.read_body(buffer, room);
      ASSERT_TRUE(taken) << taken.error().message;
      body.append(room.data(), taken->out);
      buffer.erase(0, taken->in);
      if (taken->in == 0) {
        ASSERT_LT(fed, all.size());
        buffer += all[fed++];
      }
    }
  }
  EXPECT_EQ(body, "abc0123456789abcdef");
  EXPECT_EQ(reader.head().target(), "/second");
  EXPECT_EQ(fed, all.size());
  EXPECT_TRUE(buffer.empty());
}

TEST(Request, TakesNothingOfTheNext) {
  const std::string text = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nokGET /";
  RequestReader reader;
  const auto head = reader.read_head(text);
  ASSERT_TRUE(head);
  std::array<char, 100> room{};
  const auto taken = reader.read_body(text.substr(*head), room);
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->in, 2u);
  EXPECT_EQ(taken->out, 2u);
  EXPECT_TRUE(reader.is_whole());
  EXPECT_EQ(reader.read_body("GET /", room)->in, 0u);
}

TEST(Chunks, OfAnotherFormAreRefused) {
  const std::string head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
  ASSERT_EQ(request(head + "1\r\na\r\n0\r\n\r\n"), 0);
  for (const std::string& body : {"\r\n"s,
                                  "x\r\n"s,
                                  "-1\r\n"s,
                                  "+1\r\n"s,
                                  "0x1\r\n"s,
                                  " 1\r\n"s,
                                  "1 \r\n"s,
                                  ";a\r\n"s,
                                  "1 ;a\r\na\r\n"s,
                                  "1\na\r\n0\r\n\r\n"s,
                                  "1\r\na\n0\r\n\r\n"s,
                                  "1\r\nab\r\n"s,
                                  "1\r\na0\r\n\r\n"s,
                                  "1\r\na\r0\r\n\r\n"s,
                                  "1\r\na\r\n0\n\n"s,
                                  "1\ra\r\n"s,
                                  "1\r\na\r\n0\r\n\n"s,
                                  "0\r\nA: b\n\r\n"s,
                                  "0\r\n A: b\r\n\r\n"s,
                                  "0\r\n: b\r\n\r\n"s,
                                  "0\r\nA: \x01\r\n\r\n"s,
                                  "0;\0\r\n\r\n"s,
                                  "0;\n\r\n\r\n"s,
                                  "0\r\n\r\r"s,
                                  "1000000000000000\r\n"s,
                                  "ffffffffffffffffff\r\n"s,
                                  "0000000000000001\r\na\r\n"s}) {
    EXPECT_EQ(request(head + body), 400) << body;
  }
  const std::string extras(kChunkExtrasMax_bytes + 1, 'a');
  EXPECT_EQ(request(head + "1;" + extras), 400);
  EXPECT_EQ(request(head + "0\r\n" + extras + ":"), 400);
  std::string many = head;
  for (int i = 0; i < 90; ++i) many += "1;" + extras.substr(0, 100) + "\r\na\r\n";
  EXPECT_EQ(request(many), 400);
}

TEST(Message, KeepsTheConnectionOpenAsItSays) {
  const auto keeps = [](const char* version, const char* fields) {
    RequestReader reader;
    EXPECT_TRUE(reader.read_head("GET / HTTP/"s + version + "\r\nHost: a\r\n" + fields + "\r\n"));
    return reader.keeps_open();
  };
  EXPECT_TRUE(keeps("1.1", ""));
  EXPECT_FALSE(keeps("1.1", "Connection: a, Close\r\n"));
  EXPECT_FALSE(keeps("1.1", "Connection: keep-alive\r\nConnection: close\r\n"));
  EXPECT_FALSE(keeps("1.0", ""));
  EXPECT_TRUE(keeps("1.0", "Connection: Keep-Alive\r\n"));
}

TEST(Message, NamesAnUpgradeThatConnectionNames) {
  const auto upgrade = [](const std::string& fields) {
    RequestReader reader;
    EXPECT_TRUE(reader.read_head(kGet + fields + "\r\n"));
    return std::string(reader.upgrade());
  };
  EXPECT_EQ(upgrade("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"), "websocket");
  EXPECT_EQ(upgrade("Upgrade: websocket\r\n"), "");
  EXPECT_EQ(upgrade("Connection: upgrade\r\nUpgrade: a, b\r\n"), "");
  EXPECT_EQ(upgrade("Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n"), "");
  EXPECT_EQ(upgrade("Connection: upgrade\r\nUpgrade: a\r\nContent-Length: 1\r\n"), "");
}

TEST(Answer, IsReadAsItsRequestWants) {
  std::string body;
  EXPECT_EQ(answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "GET", &body), 0);
  EXPECT_EQ(body, "ok");
  EXPECT_EQ(answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "HEAD"), 0);
  EXPECT_EQ(answer("HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD"), 0);
  EXPECT_EQ(answer("HTTP/1.1 304 Not\r\nContent-Length: 2\r\n\r\n"), 0);
  EXPECT_EQ(answer("HTTP/1.1 204 No\r\n\r\n"), 0);
  EXPECT_EQ(answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 0);
}

TEST(Answer, OfTwoFramingsIsRefused) {
  for (const std::string& text :
       {"200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"s,
        "200 OK\r\nContent-Length: 2, 2\r\n\r\nok"s,
        "200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"s,
        "200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"s,
        "200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"s, "200 OK\r\nA : b\r\n\r\n"s,
        "200 OK\r\nA: b\r\n c\r\n\r\n"s, "200 OK\r\nA: b\nB: c\r\n\r\n"s,
        "200 OK\r\nA: b\0\r\n\r\n"s, "99 OK\r\n\r\n"s, "099 OK\r\n\r\n"s, "600 OK\r\n\r\n"s,
        "2000 OK\r\n\r\n"s, "100 OK\r\nContent-Length: 3\r\n\r\n"s,
        "103 OK\r\nTransfer-Encoding: chunked\r\n\r\n"s, "101 OK\r\n\r\n"s,
        "101 OK\r\nUpgrade: a\r\n\r\n"s, "200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"s}) {
    EXPECT_EQ(answer("HTTP/1.1 " + text), 502) << text;
  }
  EXPECT_EQ(answer("\r\nHTTP/1.1 200 OK\r\n\r\n"), 502);
  EXPECT_EQ(answer("HTTP/2 200 OK\r\n\r\n"), 502);
  EXPECT_EQ(answer("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), 502);
  EXPECT_EQ(answer("GET / HTTP/1.1\r\n\r\n"), 502);
}

TEST(Answer, WithoutALengthEndsWithItsConnection) {
  const std::string text = "HTTP/1.1 200 OK\r\n\r\nall of it";
  AnswerReader reader("GET");
  const auto head = reader.read_head(text);
  ASSERT_TRUE(head);
  EXPECT_EQ(reader.framing(), Framing::kUntilClose);
  EXPECT_FALSE(reader.keeps_open());
  std::array<char, 100> room{};
  EXPECT_EQ(reader.read_body(text.substr(*head), room)->out, 9u);
  EXPECT_FALSE(reader.is_whole());
  EXPECT_TRUE(reader.end_of_input());
  EXPECT_TRUE(reader.is_whole());
}

TEST(Answer, ThatIsCutOffIsNoAnswer) {
  for (const char* text :
       {"", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"}) {
    AnswerReader reader("GET");
    ASSERT_TRUE(reader.read_head(text));
    const auto end = reader.end_of_input();
    ASSERT_FALSE(end) << text;
    EXPECT_EQ(end.error().status, 502);
  }
}

TEST(Answer, ComesBehindThoseOf1xx) {
  const std::string text =
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
      "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
  AnswerReader reader("POST");
  std::size_t at = 0;
  for (const unsigned status : {100u, 103u, 200u}) {
    const auto head = reader.read_head(std::string_view(text).substr(at));
    ASSERT_TRUE(head) << head.error().message;
    EXPECT_EQ(reader.head().result_int(), status);
    EXPECT_EQ(reader.is_whole(), status < 200);
    EXPECT_EQ(reader.head().count("Link"), status == 103 ? 1u : 0u);
    at += *head;
  }
  EXPECT_EQ(reader.length(), 2u);
  EXPECT_TRUE(reader.keeps_open());
}

TEST(Answer, SwitchesProtocolsWithAName) {
  AnswerReader reader("GET");
  ASSERT_TRUE(reader.read_head(
      "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x02hi"));
  EXPECT_EQ(reader.upgrade(), "websocket");
  EXPECT_TRUE(reader.is_whole());
  EXPECT_FALSE(reader.keeps_open());
}

TEST(Answer, Of204WithABodyIsTheLastOne) {
  AnswerReader reader("GET");
  ASSERT_TRUE(reader.read_head("HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nok"));
  EXPECT_TRUE(reader.is_whole());
  EXPECT_FALSE(reader.keeps_open());
}

}  // namespace
}  // namespace modelpool::serve
