#include "wire/lease_wish.hpp"

#include <gtest/gtest.h>

#include <string>

#include "serve/messages.hpp"

namespace modelpool::serve {
namespace {

using std::chrono::nanoseconds;
using std::chrono::seconds;

LeaseWish wish(const std::string& body) {
  auto wish = read_lease_wish(body);
  EXPECT_TRUE(wish) << wish.error().message;
  return wish.value_or(LeaseWish());
}

TEST(LeaseWish, SaysWhatATenantTakes) {
  const LeaseWish tenant =
      wish(R"({"name": "comfy", "memory": "9GiB", "devices": 2, "gpu_memory": 1024,
               "group": "heavy", "timeout": "90s", "tag": "t", "id": "i"})");
  EXPECT_TRUE(tenant.is_tenant);
  EXPECT_EQ(tenant.name, "comfy");
  EXPECT_EQ(tenant.need.memory_bytes, std::uint64_t{9} << 30);
  EXPECT_EQ(tenant.need.devices, 2u);
  EXPECT_EQ(tenant.need.device_bytes, 1024u);
  EXPECT_EQ(tenant.need.group, "heavy");
  EXPECT_EQ(tenant.timeout, seconds(90));
  EXPECT_EQ(tenant.tag, "t");
  EXPECT_EQ(tenant.id, "i");
}

TEST(LeaseWish, TellsNoTimeoutFromNoneSaidAndFromNone) {
  EXPECT_EQ(wish(R"({"model": "a"})").timeout, std::nullopt);
  EXPECT_EQ(wish(R"({"model": "a", "timeout": "off"})").timeout, nanoseconds::max());
  EXPECT_EQ(wish(R"({"model": "a", "timeout": "0s"})").timeout, nanoseconds(0));
}

TEST(LeaseWish, IsReadAsJsonOnly) {
  const auto status = [](const std::string& fields) {
    const auto ok = check_wish_head(request_of("POST /x HTTP/1.1\nHost: a\n" + fields));
    return ok ? 200 : ok.error().status;
  };
  EXPECT_EQ(status("Content-Type: application/json\n"), 200);
  EXPECT_EQ(status("Content-Type: Application/JSON ; charset=utf-8\n"), 200);
  EXPECT_EQ(status("Content-Type: application/json\nContent-Encoding: gzip\n"), 415);
  EXPECT_EQ(status("Content-Type: application/json-patch+json\n"), 415);
  EXPECT_EQ(status(""), 415);
}

TEST(LeaseMark, TellsWhichLeaseItIsAndWhose) {
  LeaseWish one = wish(R"({"model": "a", "id": "x"})");
  const std::string mark = lease_mark(one, "key 1");
  EXPECT_EQ(mark, lease_mark(one, "key 1"));
  EXPECT_NE(mark, lease_mark(one, "key 2"));
  EXPECT_TRUE(is_same_lease(mark, lease_mark(one, "key 2")));
  EXPECT_FALSE(is_same_lease(mark, ""));
  for (const char* other : {R"({"name": "a", "id": "x"})", R"({"model": "b", "id": "x"})",
                            R"({"model": "a", "id": "y"})", R"({"model": "ax", "id": "x"})"}) {
    EXPECT_FALSE(is_same_lease(mark, lease_mark(wish(other), "key 1"))) << other;
  }
}

TEST(LeaseMark, IsFoundInATagHoweverLongThatWas) {
  const std::string mark = lease_mark(wish(R"({"model": "a", "id": "x"})"), "");
  for (const std::string tag :
       {"", "t", "0123456789", "0123456789a", "0123456789012345678901234567"}) {
    const std::string marked = marked_tag(tag, mark);
    EXPECT_LE(marked.size(), kTagMax_bytes);
    EXPECT_EQ(mark_of(marked), mark);
    EXPECT_EQ(marked.substr(0, marked.size() - mark.size()), tag.substr(0, 10));
  }
  // No character is cut in half.
  EXPECT_EQ(marked_tag("123456789\u00fc", mark), "123456789" + mark);
  EXPECT_EQ(marked_tag("0123456789012345678901234567", ""), "0123456789012345678901234567");
  // What has none does not get another's, also where it has one only once it was cut.
  for (const std::string& forged : {mark, "0123456789" + mark, "0123456789" + mark + "0"})
    EXPECT_EQ(mark_of(marked_tag(forged, "")), "") << forged;
  for (const std::string none :
       {"", "#0123456789abcdef012", "#0123456789abcdef012g", "x0123456789abcdef0123"})
    EXPECT_EQ(mark_of(none), "") << none;
}

}  // namespace
}  // namespace modelpool::serve
