#include "base/address.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "support/pool.hpp"

using namespace modelpool;        // NOLINT(google-build-using-namespace)
using namespace modelpool::test;  // NOLINT(google-build-using-namespace)

namespace {

TEST(Address, IsTakenApart) {
  const auto parsed = [](std::string_view text) { return parse_address(text).value(); };
  EXPECT_EQ(parsed("127.0.0.1:8080").host, "127.0.0.1");
  EXPECT_EQ(parsed("127.0.0.1:8080").port, 8080);
  EXPECT_EQ(parsed("[::1]:80").host, "::1");
  EXPECT_EQ(parsed("http://gpu7:65535/v1/models").host, "gpu7");
  EXPECT_EQ(parsed("http://gpu7:65535/v1/models").port, 65535);
  EXPECT_EQ(parsed("http://gpu7:65535/v1/models").path, "/v1/models");
  EXPECT_EQ(parsed("https://gpu7:1/").path, "");
  EXPECT_EQ(parsed("unix:/run/m.sock").unix_path, "/run/m.sock");
}

TEST(Address, ThatNobodyCouldConnectToIsRefusedWithTheReason) {
  const auto reason = [](std::string_view text) { return text_of(parse_address(text)); };
  EXPECT_NE(reason("gpu7").find("the port is missing"), std::string::npos);
  EXPECT_NE(reason("gpu7:0").find("1 to 65535"), std::string::npos);
  EXPECT_NE(reason("gpu7:65536").find("1 to 65535"), std::string::npos);
  EXPECT_NE(reason("gpu7:-1").find("1 to 65535"), std::string::npos);
  EXPECT_NE(reason(":80").find("the host is missing"), std::string::npos);
  EXPECT_NE(reason("unix:").find("the path is missing"), std::string::npos);
  EXPECT_NE(reason("unix:/" + std::string(107, 'x')).find("longer than 107"), std::string::npos);
  EXPECT_NE(reason("").find("write host:port or unix:/path"), std::string::npos);
}

// Two live backends must not have one place.
bool share_a_place(std::string_view a, std::string_view b) {
  const auto places = places_of(a);
  const auto others = places_of(b);
  return std::find_first_of(places.begin(), places.end(), others.begin(), others.end()) !=
         places.end();
}

TEST(Address, PlacesAreEqualHoweverTheyAreWritten) {
  const char* here = "127.0.0.1:80";
  for (const char* same :
       {"localhost:80", "LocalHost:80", "0.0.0.0:80", "http://127.0.0.1:80", "http://localhost:80/",
        "[::ffff:127.0.0.1]:80", "127.1:80", "0x7f.0.0.1:80", "0X7F.1:80", "2130706433:80", "0:80",
        "localhost.:80", "*:80", "[::ffff:0.0.0.0]:80", "m.localhost:80", "127.0.0.1.:80"}) {
    EXPECT_TRUE(share_a_place(same, here)) << same;
  }
  for (const char* other :
       {"127.0.0.1:81", "127.0.0.2:80", "[::1]:80", "gpu7:80", "abc:80", "127.0.0.1.1:80",
        "http://127.0.0.1:80/v1", "unix:/80", "80", "", "notlocalhost:80"}) {
    EXPECT_FALSE(share_a_place(other, here)) << other;
  }
  for (const char* same : {"[::]:80", "[0:0:0:0:0:0:0:1]:80", "localhost:80", "*:80"}) {
    EXPECT_TRUE(share_a_place(same, "[::1]:80")) << same;
  }
  EXPECT_TRUE(share_a_place("GPU7:80", "gpu7:80"));
  EXPECT_TRUE(share_a_place("unix:/run//a/../m", "unix:/run/m"));
  EXPECT_TRUE(share_a_place("of my own", "of my own"));
}

}  // namespace
