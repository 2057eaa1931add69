#include "wire/api.hpp"

#include <gtest/gtest.h>

#include <string>

#include "serve/messages.hpp"
#include "wire/heads.hpp"

namespace modelpool::serve {
namespace {

using namespace std::string_literals;

constexpr const char* kJson = "Content-Type: application/json\n";

http::header<true> head_of(const std::string& method, const std::string& target,
                           const std::string& fields = "") {
  return request_of(method + " " + target + " HTTP/1.1\nHost: a\n" + fields);
}

Checked<ApiAsked> ask(const std::string& method, const std::string& target,
                      const std::string& fields = "", bool may_steer = true) {
  return read_api(head_of(method, target, fields), may_steer);
}

int status_of(const Checked<ApiAsked>& asked) { return asked ? 200 : asked.error().status; }

TEST(Api, HasItsOwnPathsAndNoOthers) {
  for (const char* path : {"/api/pool", "/api/pool/", "/api/pool/x", "/running", "/api/ps"})
    EXPECT_TRUE(is_api(path)) << path;
  for (const char* path : {"/", "/api", "/api/poolx", "/api/chat", "/running/", "/api/ps/x", ""})
    EXPECT_FALSE(is_api(path)) << path;
}

TEST(Api, FindsWhatIsAskedFor) {
  EXPECT_EQ(ask("GET", "/api/pool/status")->call, ApiCall::kStatus);
  EXPECT_EQ(ask("HEAD", "/api/pool/leases?x=y")->call, ApiCall::kLeases);
  EXPECT_EQ(ask("GET", "/running")->call, ApiCall::kRunning);
  EXPECT_EQ(ask("GET", "/api/ps")->call, ApiCall::kPs);
  EXPECT_EQ(ask("POST", "/api/pool/unpin", kJson)->call, ApiCall::kUnpin);
  const auto explained = ask("GET", "/api/pool/explain/Qwen/Qwen3%3AQ4%20K");
  EXPECT_EQ(explained->call, ApiCall::kExplain);
  EXPECT_EQ(explained->model, "Qwen/Qwen3:Q4 K");
  EXPECT_EQ(status_of(ask("GET", "/api/pool/explain/%2")), 400);
  for (const char* path : {"/api/pool", "/api/pool/", "/api/pool/explain", "/api/pool/explain/",
                           "/api/pool/status/", "/api/pool/statu"}) {
    const auto none = ask("GET", path);
    ASSERT_EQ(status_of(none), 404) << path;
    EXPECT_NE(none.error().message.find("explain/NAME"), std::string::npos);
    EXPECT_NE(none.error().message.find("unpin"), std::string::npos);
  }
}

TEST(Api, NamesTheMethodThatItTakes) {
  for (const char* path : {"/api/pool/leases", "/api/pool/explain/x", "/running", "/api/ps"}) {
    const auto asked = ask("DELETE", path, kJson);
    ASSERT_EQ(status_of(asked), 405) << path;
    const auto fields = answer_of(asked.error()).fields;
    ASSERT_EQ(fields.size(), 1u);
    EXPECT_EQ(fields[0], std::make_pair("Allow"s, "GET, HEAD"s));
  }
  const auto asked = ask("GET", "/api/pool/evict", "", false);
  ASSERT_EQ(status_of(asked), 405);
  EXPECT_EQ(asked.error().allow, "POST");
}

TEST(Api, TakesOrdersFromWhoMaySteerAndAsJsonAlone) {
  EXPECT_EQ(status_of(ask("POST", "/api/pool/evict", kJson, false)), 403);
  EXPECT_EQ(status_of(ask("GET", "/api/pool/status", "", false)), 200);
  for (const char* fields :
       {"", "Content-Type: text/plain\n", "Content-Type: application/x-www-form-urlencoded\n",
        "Content-Type: text/plain; application/json\n", "Content-Type: application/jsonx\n",
        "Content-Type: application/json\nContent-Type: text/plain\n",
        "Content-Type: application/json\nContent-Encoding: gzip\n"})
    EXPECT_EQ(status_of(ask("POST", "/api/pool/evict", fields)), 415) << fields;
  EXPECT_EQ(
      status_of(ask("POST", "/api/pool/set", "Content-Type: Application/JSON ; charset=utf-8\n")),
      200);
}

EventsAsked events(const std::string& query, const std::string& fields = "") {
  const auto asked = ask("GET", "/api/pool/events" + query, fields);
  EXPECT_TRUE(asked) << query << (asked ? "" : asked.error().message);
  return asked ? asked->events : EventsAsked{};
}

TEST(ApiEvents, TakesTheFlagsOfPoolctl) {
  EXPECT_FALSE(events("").since || events("").count || events("").follows);
  EXPECT_EQ(events("?since=17").since, 17u);
  EXPECT_EQ(events("?since=0").since, 1u);
  EXPECT_EQ(events("?since=1.5s").last_ns, 1'500'000'000u);
  const EventsAsked asked = events("?follow=1&count=3&model=a%20b+c&kind=killed&kind=loaded");
  EXPECT_TRUE(asked.follows);
  EXPECT_EQ(asked.count, 3u);
  EXPECT_TRUE(asked.wants("a b c", "loaded"));
  EXPECT_FALSE(asked.wants("a b c", "evicted") || asked.wants("a", "loaded"));
  EXPECT_TRUE(EventsAsked().wants("", "recovered"));
}

TEST(ApiEvents, GoesOnBehindTheLastThatAViewerHad) {
  EXPECT_EQ(events("?follow=1", "Last-Event-ID: 41\n").since, 42u);
  EXPECT_EQ(events("?follow=1&since=7", "Last-Event-ID: 41\n").since, 42u) << "it is the later one";
  EXPECT_EQ(events("?since=7", "Last-Event-ID: 41\n").since, 7u) << "nothing is followed";
  EXPECT_EQ(status_of(ask("GET", "/api/pool/events?follow=1", "Last-Event-ID: x\n")), 400);
}

TEST(ApiEvents, NamesWhatItCannotRead) {
  const auto message = [](const std::string& query) {
    const auto asked = ask("GET", "/api/pool/events?" + query);
    EXPECT_EQ(status_of(asked), 400) << query;
    return asked ? "" : asked.error().message;
  };
  for (const char* since : {"off", "", "-1", "x", "99999999999999999999"})
    EXPECT_NE(message("since="s + since).find("\"since\""), std::string::npos);
  EXPECT_NE(message("count=few").find("\"count\""), std::string::npos);
  EXPECT_NE(message("follow=yes").find("\"follow\""), std::string::npos);
  EXPECT_NE(message("kind=kill").find("killed"), std::string::npos);
  EXPECT_NE(message("colour=red").find("\"colour\""), std::string::npos);
  EXPECT_NE(message("count=1&count=2").find("count= twice"), std::string::npos);
  message("since=%zz");
  message("%=1");
}

Checked<Order> order(ApiCall call, const std::string& body) { return read_order(call, body); }

TEST(ApiOrder, IsReadFromItsBody) {
  const auto evict =
      order(ApiCall::kEvict, R"({"model": "a\u00e4\n", "force": true, "timeout": "2m"})");
  ASSERT_TRUE(evict);
  EXPECT_EQ(evict->model, "a\xc3\xa4\n");
  EXPECT_TRUE(evict->force);
  EXPECT_EQ(evict->timeout_ns, 120'000'000'000u);
  EXPECT_EQ(order(ApiCall::kLoad, R"({"model": "a", "timeout": "0"})")->timeout_ns, 0u);
  EXPECT_FALSE(order(ApiCall::kLoad, R"({"model": "a"})")->timeout_ns);
  const auto set = order(
      ApiCall::kSet, R"({"max_backends": 3, "idle-timeout": "15m", "pinned": false, "keep": 1.5})");
  ASSERT_TRUE(set);
  const std::vector<std::pair<std::string, std::string>> values{
      {"max_backends", "3"}, {"idle-timeout", "15m"}, {"pinned", "false"}, {"keep", "1.5"}};
  EXPECT_EQ(set->values, values);
}

TEST(ApiOrder, NamesTheKeyThatItCannotRead) {
  const auto check = [](ApiCall call, const std::string& body, const std::string& named) {
    const auto read = order(call, body);
    ASSERT_FALSE(read) << body;
    EXPECT_EQ(read.error().status, 400);
    EXPECT_NE(read.error().message.find(named), std::string::npos) << read.error().message;
  };
  const std::string deep(60'000, '[');
  for (const std::string& body : {""s, "[]"s, "\"model\""s, "{\"model\":"s, "{} {}"s, deep,
                                  "{\"model\": \"\xff\"}"s, "{\"model\": \"a\",}"s})
    check(ApiCall::kPin, body, "JSON object");
  check(ApiCall::kPin, "{}", "\"model\"");
  check(ApiCall::kPin, R"({"model": ""})", "\"model\"");
  check(ApiCall::kPin, R"({"model": 5})", "\"model\"");
  check(ApiCall::kPin, R"({"model": "a", "model": "b"})", "\"model\" twice");
  check(ApiCall::kPin, R"({"model": "a", "force": true})", "\"force\"");
  check(ApiCall::kLoad, R"({"model": "a", "force": true})", "\"force\"");
  check(ApiCall::kEvict, R"({"model": "a", "force": 1})", "\"force\"");
  check(ApiCall::kEvict, R"({"model": "a", "timeout": 5})", "\"timeout\"");
  check(ApiCall::kLoad, R"({"model": "a", "timeout": "soon"})", "\"timeout\"");
  check(ApiCall::kUnpin, R"({"model": "a", "timeout": "5s"})", "\"timeout\"");
  check(ApiCall::kSet, "{}", "no setting");
  check(ApiCall::kSet, R"({"keep": [1]})", "\"keep\"");
  check(ApiCall::kSet, R"({"keep": null})", "\"keep\"");
}

}  // namespace
}  // namespace modelpool::serve
