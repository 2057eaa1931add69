#include "base/name.hpp"

#include <gtest/gtest.h>

#include <string>

using namespace modelpool;  // NOLINT(google-build-using-namespace)

TEST(PoolName, IsShortAndSafeAsAFileName) {
  for (const char* name : {"default", "a", "gpu-0_x", "0"}) EXPECT_TRUE(check_pool_name(name));
  EXPECT_TRUE(check_pool_name(std::string(64, 'a')));
  for (const char* name : {"", "A", "a b", "a/b", "..", "a.b", "ä", "a\n"}) {
    EXPECT_FALSE(check_pool_name(name)) << name;
  }
  EXPECT_FALSE(check_pool_name(std::string(65, 'a')));
  EXPECT_EQ(check_pool_name("A/").error().text,
            "unable to use the pool name \"A/\": a pool name is 1 to 64 of a-z, 0-9, _ and -; "
            "change it");
}

TEST(ModelName, Is1To255BytesOfPrintableUtf8) {
  EXPECT_TRUE(check_model_name("meta/llama 3:8b@2"));
  EXPECT_TRUE(check_model_name(std::string(kModelNameMax_bytes, 'x')));
  EXPECT_FALSE(check_model_name(""));
  EXPECT_FALSE(check_model_name("a\tb"));
  const Result<> result = check_model_name(std::string(kModelNameMax_bytes + 1, 'x'));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::kInvalid);
  EXPECT_NE(result.error().text.find("it has 256 bytes; shorten it to 255"), std::string::npos);
}

TEST(Address, HasNoBlanks) {
  for (const char* address : {"127.0.0.1:8080", "unix:/run/x", "http://[::1]:80/v1"}) {
    EXPECT_TRUE(check_address(address));
  }
  EXPECT_TRUE(check_address(std::string(kAddressMax_bytes, 'x')));
  for (const char* address : {"", "a b", " a", "a\n"}) EXPECT_FALSE(check_address(address));
  EXPECT_FALSE(check_address(std::string(kAddressMax_bytes + 1, 'x')));
}

TEST(Tag, MayBeEmpty) {
  EXPECT_TRUE(check_tag(""));
  EXPECT_TRUE(check_tag("req 81"));
  EXPECT_TRUE(check_tag(std::string(kTagMax_bytes, 'x')));
  EXPECT_FALSE(check_tag(std::string(kTagMax_bytes + 1, 'x')));
  EXPECT_FALSE(check_tag("\x1b"));
}
