#include "base/address.hpp"

#include <gtest/gtest.h>

#include <string>

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

TEST(Address, PlacesAreEqualHoweverTheyAreWritten) {
  const std::string here = place_of("127.0.0.1:80");
  for (const char* same : {"localhost:80", "LocalHost:80", "0.0.0.0:80", "http://127.0.0.1:80",
                           "http://localhost:80/", "[::ffff:127.0.0.1]:80", "127.1:80",
                           "0x7f.0.0.1:80", "2130706433:80", "0:80", "localhost.:80"}) {
    EXPECT_EQ(place_of(same), here) << same;
  }
  for (const char* other : {"127.0.0.1:81", "127.0.0.2:80", "[::1]:80", "gpu7:80", "abc:80",
                            "127.0.0.1.1:80", "http://127.0.0.1:80/v1", "unix:/80", "80", ""}) {
    EXPECT_NE(place_of(other), here) << other;
  }
  EXPECT_EQ(place_of("[::]:80"), place_of("[0:0:0:0:0:0:0:1]:80"));
  EXPECT_EQ(place_of("unix:/run//a/../m"), place_of("unix:/run/m"));
  EXPECT_EQ(place_of("of my own"), "of my own");
}

}  // namespace
