#include "wire/access.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "serve/messages.hpp"
#include "support/scratch.hpp"

namespace modelpool::serve {
namespace {

using namespace std::string_literals;

class Access : public ::testing::Test {
 protected:
  Access() {
    test::write_file(path_, "# ours\nsk-use-1 use alice\nsk-steer-2 steer bob # the boss\n");
    EXPECT_EQ(chmod(path_.c_str(), 0600), 0);
    auto keys = read_keys(path_);
    EXPECT_TRUE(keys) << (keys ? "" : keys.error().text);
    if (keys) keys_ = *keys;
    rules_.is_loopback = true;
    rules_.host_names = {"door.example:8080"};
    rules_.cors_origins = {"https://app.example"};
  }

  // The status of a refusal, else 200, and whose key it was.
  std::string ask(const std::string& fields, const char* method = "GET") {
    const std::string host = fields.find("Host:") == fields.npos ? "Host: localhost:8080\n" : "";
    const auto admitted =
        admit(request_of(std::string(method) + " / HTTP/1.1\n" + host + fields), rules_);
    if (admitted) return "200" + (admitted->key != nullptr ? " " + admitted->key->name : "");
    EXPECT_EQ(admitted.error().wants_key, admitted.error().status == 401);
    EXPECT_EQ(admitted.error().message.find("sk-"), std::string::npos) << "a key is told";
    return std::to_string(admitted.error().status);
  }
  std::string allowed(const std::string& fields) {
    const auto admitted =
        admit(request_of("GET / HTTP/1.1\nHost: localhost:8080\n" + fields), rules_);
    return admitted ? admitted->allow_origin : "refused";
  }
  void write_keys(const std::string& text) {
    test::write_file(path_, text);
    chmod(path_.c_str(), 0600);
  }

  test::Scratch scratch_;
  const std::string path_ = scratch_.path("keys");
  std::vector<Key> keys_;
  AccessRules rules_;
};

TEST_F(Access, NeedsNoKeyOnLoopbackWithoutKeys) {
  EXPECT_EQ(ask(""), "200");
  EXPECT_EQ(ask("Authorization: Bearer anything\nX-Api-Key: other\n"), "200");
  rules_.is_loopback = false;
  EXPECT_EQ(ask(""), "401");
  rules_.is_unix = true;
  EXPECT_EQ(ask(""), "200");
  rules_.is_unix = false;
  rules_.auth = config::Auth::kNone;
  EXPECT_EQ(ask(""), "200");
  rules_.auth = config::Auth::kKeys;
  rules_.is_loopback = true;
  EXPECT_EQ(ask(""), "401");
}

TEST_F(Access, OfAPeerNeedsNoKeyBesideItsCertificate) {
  rules_.auth = config::Auth::kPeer;
  rules_.is_loopback = false;
  EXPECT_EQ(ask(""), "200");
  rules_.keys = &keys_;
  EXPECT_EQ(ask(""), "200");
  EXPECT_EQ(ask("Api-Key: sk-use-1\n"), "200 alice");
  EXPECT_EQ(ask("Origin: http://evil.example\n"), "403");
}

TEST_F(Access, TakesAKeyFromEachOfItsFields) {
  rules_.keys = &keys_;
  EXPECT_EQ(ask(""), "401");
  EXPECT_EQ(ask("Authorization: Bearer sk-use-1\n"), "200 alice");
  EXPECT_EQ(ask("authorization: bearer  sk-steer-2\n"), "200 bob");
  EXPECT_EQ(ask("X-API-Key: sk-use-1\n"), "200 alice");
  EXPECT_EQ(ask("Api-Key: sk-use-1\n"), "200 alice");
  EXPECT_EQ(ask("Api-Key: sk-use-1\nAuthorization: Bearer sk-use-1\n"), "200 alice");
  EXPECT_EQ(ask("Api-Key: sk-use-1\nAuthorization: Basic eDp5\n"), "200 alice");
  for (const char* fields :
       {"Authorization: sk-use-1\n", "Authorization: Basic sk-use-1\n", "Authorization: Bearer\n",
        "Authorization: Bearer sk-use-\n", "Authorization: Bearer sk-use-11\n",
        "Authorization: Bearer SK-USE-1\n", "X-Api-Key:\n", "Cookie: sk-use-1\n",
        "X-Api-Key: sk-use-1\nApi-Key: sk-steer-2\n", "X-Api-Key: sk-use-1\nX-Api-Key: x\n",
        "Authorization: Bearer sk-use-1\nAuthorization: Bearer x\n"}) {
    EXPECT_EQ(ask(fields), "401") << fields;
  }
}

TEST_F(Access, WithoutNeedKnowsAKeyAllTheSame) {
  rules_.keys = &keys_;
  rules_.auth = config::Auth::kNone;
  EXPECT_EQ(ask("Api-Key: sk-use-1\n"), "200 alice");
  EXPECT_EQ(ask("Api-Key: unknown\n"), "200");
  EXPECT_EQ(ask("Api-Key: sk-use-1\nX-Api-Key: unknown\n"), "401");
}

TEST_F(Access, OfAForeignPageNeedsAKey) {
  for (const char* fields :
       {"Origin: http://evil.example\n", "Origin: null\n", "Origin: http://localhost\n",
        "Origin: http://localhost:3000\n", "Origin: https://localhost:80\n", "Origin:\n",
        "Origin: localhost:8080\n", "Origin: ftp://localhost:8080\n",
        "Origin: http://localhost:8080.evil.example\n", "Origin: http://localhost:8080/\n",
        "Origin: https://app.example.evil\n", "Origin: http://app.example\n",
        "Origin: https://app.example\nOrigin: https://app.example\n",
        "Sec-Fetch-Site: cross-site\n",
        "Sec-Fetch-Site: Cross-Site\nOrigin: http://localhost:8080\n",
        "Sec-Fetch-Site: none\nSec-Fetch-Site: none\n"}) {
    rules_.keys = nullptr;
    EXPECT_EQ(ask(fields), "403") << fields;
    rules_.keys = &keys_;
    EXPECT_EQ(ask(fields), "401") << fields;
    EXPECT_EQ(ask(fields + "Api-Key: sk-use-1\n"s), "200 alice") << fields;
    rules_.auth = config::Auth::kNone;
    EXPECT_EQ(ask(fields + "Api-Key: unknown\n"s), "403") << fields;
    rules_.auth = config::Auth::kDefault;
  }
}

TEST_F(Access, WhatIsForAllSitesIsReadByNone) {
  rules_.is_for_all_sites = true;
  EXPECT_EQ(ask("Sec-Fetch-Site: cross-site\n"), "200");
  EXPECT_EQ(allowed("Origin: http://evil.example\nSec-Fetch-Site: cross-site\n"), "");
  EXPECT_EQ(ask("Host: evil.example\n"), "421");
  rules_.keys = &keys_;
  EXPECT_EQ(ask("Sec-Fetch-Site: cross-site\n"), "401");
}

TEST_F(Access, OfOurOwnOrAListedPageIsAllowed) {
  EXPECT_EQ(allowed(""), "");
  EXPECT_EQ(allowed("Origin: http://LOCALHOST:8080\n"), "http://LOCALHOST:8080");
  EXPECT_EQ(allowed("Origin: https://localhost:8080\nSec-Fetch-Site: same-origin\n"),
            "https://localhost:8080");
  EXPECT_EQ(allowed("Origin: https://app.example\nSec-Fetch-Site: cross-site\n"),
            "https://app.example");
  EXPECT_EQ(allowed("Sec-Fetch-Site: same-site\n"), "");
  EXPECT_EQ(ask("Host: localhost:80\nOrigin: http://localhost\n"), "200");
  EXPECT_EQ(ask("Host: localhost\nOrigin: https://localhost:443\n"), "200");
  EXPECT_EQ(ask("Host: [::1]:80\nOrigin: http://[::1]\n"), "200");
  rules_.cors_origins = {"*"};
  EXPECT_EQ(allowed("Origin: http://any.example\n"), "http://any.example");
  rules_.keys = &keys_;
  rules_.cors_origins = {};
  EXPECT_EQ(allowed("Origin: http://any.example\nApi-Key: sk-use-1\n"), "")
      << "it may ask, but a browser does not let the page read";
}

TEST_F(Access, HasAHostOfTheDoor) {
  for (const char* host :
       {"localhost", "LocalHost:1", "localhost.", "127.0.0.1", "192.168.7.9:8080", "[::1]:8080",
        "[fe80::1%25eth0]", "door.example", "Door.Example.:99"}) {
    EXPECT_EQ(ask("Host: "s + host + "\n"), "200") << host;
  }
  for (const char* host :
       {"evil.example", "localhost.evil.example", "a.localhost", "127.0.0.1.evil", "127.1",
        "2130706433", "door.example.com", "[door.example]", "."}) {
    rules_.is_unix = false;
    rules_.auth = config::Auth::kDefault;
    EXPECT_EQ(ask("Host: "s + host + "\n"), "421") << host;
    rules_.auth = config::Auth::kNone;
    EXPECT_EQ(ask("Host: "s + host + "\nOrigin: http://" + host + "\n"), "421") << host;
    rules_.is_unix = true;
    EXPECT_EQ(ask("Host: "s + host + "\n"), "200") << host;
  }
  rules_.is_unix = false;
  rules_.keys = &keys_;
  EXPECT_EQ(ask("Host: evil.example\nApi-Key: sk-use-1\n"), "421");
  rules_.keys = nullptr;
  RequestReader reader;
  ASSERT_TRUE(reader.read_head("GET / HTTP/1.0\r\n\r\n"));
  EXPECT_TRUE(admit(reader.head(), rules_));
}

std::string field(const std::vector<std::pair<std::string, std::string>>& fields,
                  std::string_view name) {
  for (const auto& [key, value] : fields) {
    if (key == name) return value;
  }
  return "none";
}

TEST_F(Access, OfAPreflightNeedsNoKeyButAnOrigin) {
  rules_.keys = &keys_;
  const std::string asks =
      "Access-Control-Request-Method: POST\nAccess-Control-Request-Headers: x-a, content-type\n";
  EXPECT_EQ(ask("Origin: https://app.example\n" + asks, "OPTIONS"), "200");
  EXPECT_EQ(ask("Origin: https://evil.example\n" + asks, "OPTIONS"), "403");
  EXPECT_EQ(ask("", "OPTIONS"), "200");
  EXPECT_EQ(ask("Host: evil.example\n", "OPTIONS"), "421");

  const auto preflight = [&](const std::string& fields) {
    return preflight_fields(request_of("OPTIONS / HTTP/1.1\nHost: localhost\n" + fields), rules_);
  };
  auto fields = preflight("Origin: https://app.example\n" + asks);
  EXPECT_EQ(field(fields, "Access-Control-Allow-Origin"), "https://app.example");
  EXPECT_EQ(field(fields, "Access-Control-Allow-Headers"), "x-a, content-type");
  EXPECT_NE(field(fields, "Access-Control-Allow-Methods").find("POST"), std::string::npos);
  EXPECT_NE(field(fields, "Vary").find("Origin"), std::string::npos);
  EXPECT_EQ(field(fields, "Access-Control-Allow-Private-Network"), "none");
  fields = preflight(
      "Origin: https://app.example\nAccess-Control-Request-Headers: a b\n"
      "Access-Control-Request-Private-Network: true\n");
  EXPECT_EQ(field(fields, "Access-Control-Allow-Headers"), "Authorization, Content-Type");
  EXPECT_EQ(field(fields, "Access-Control-Allow-Private-Network"), "true");
  for (const char* origin : {"Origin: https://evil.example\n", ""}) {
    fields = preflight(origin + asks);
    EXPECT_EQ(field(fields, "Access-Control-Allow-Origin"), "none");
    EXPECT_EQ(field(fields, "Access-Control-Allow-Headers"), "none");
    EXPECT_NE(field(fields, "Allow"), "none");
  }
}

TEST_F(Access, KeysSayWhoMaySteer) {
  ASSERT_EQ(keys_.size(), 2u);
  EXPECT_FALSE(keys_[0].may_steer);
  EXPECT_TRUE(keys_[1].may_steer);
  write_keys("\r\n  a\t\r\nb use\nc carol\n\nd steer # dave\n#e\ng#h use i#j\n");
  const auto keys = read_keys(path_);
  ASSERT_TRUE(keys) << keys.error().text;
  ASSERT_EQ(keys->size(), 5u);
  EXPECT_EQ((*keys)[2].name, "carol");
  EXPECT_EQ((*keys)[3].name, "");
  EXPECT_TRUE((*keys)[3].may_steer);
  EXPECT_EQ((*keys)[4].name, "i#j");
}

TEST_F(Access, KeysThatCannotBeReadAreNamedByTheirLine) {
  const auto error = [&](const std::string& text) {
    write_keys(text);
    const auto keys = read_keys(path_);
    if (keys) return "none"s;
    EXPECT_EQ(keys.error().text.find("secret"), std::string::npos) << "a key is told";
    EXPECT_EQ(keys.error().text.find("unable to read the keys of " + path_ + ": "), 0u);
    return keys.error().text.substr(("unable to read the keys of " + path_ + ": ").size());
  };
  EXPECT_EQ(error("a\n\nsecret use b c\n"), "line 3: write KEY [use|steer] [name]");
  EXPECT_EQ(error("secret steeer b\n"), "line 1: write KEY [use|steer] [name]");
  EXPECT_EQ(error("secret\nsecret\n"), "line 2: its key stands further up already; remove one");
  EXPECT_EQ(error("secret\xc3\xa4\n"), "line 1: a key is 1 to 1024 printable ASCII characters");
  EXPECT_EQ(error("secret\0\n"s), "line 1: a key is 1 to 1024 printable ASCII characters");
  EXPECT_EQ(error("secret"s + std::string(1024, 'a')),
            "line 1: a key is 1 to 1024 printable ASCII characters");
  EXPECT_EQ(error("secret use \x01\n"), "line 1: the name of a key is printable UTF-8");
  EXPECT_EQ(error("# none\n"), "it has none; write a line KEY [use|steer] [name]");
  EXPECT_EQ(error(std::string((1 << 20) + 1, '\n')), "it has more than 1 MiB");
}

TEST_F(Access, KeysThatOthersMayReadAreRefused) {
  for (const mode_t mode : {0640u, 0604u, 0620u, 0601u}) {
    ASSERT_EQ(chmod(path_.c_str(), mode), 0);
    const auto keys = read_keys(path_);
    ASSERT_FALSE(keys);
    EXPECT_EQ(keys.error().code, Errc::kPermission);
  }
  ASSERT_EQ(chmod(path_.c_str(), 0400), 0);
  EXPECT_TRUE(read_keys(path_));
  if (geteuid() == 0) {
    ASSERT_EQ(chown(path_.c_str(), 1, 1), 0);
    const auto keys = read_keys(path_);
    ASSERT_FALSE(keys);
    EXPECT_EQ(keys.error().code, Errc::kPermission);
  }
  EXPECT_FALSE(read_keys(scratch_.dir()));
  EXPECT_FALSE(read_keys(scratch_.path("missing")));
}

TEST(Trusted, AreAddressesAndNetworks) {
  const auto in = [](std::string_view address, const char* network) {
    return is_trusted(address, {"nonsense", "10.0.0.0/33", "::/129", "10.0.0.0/", network});
  };
  EXPECT_TRUE(in("10.1.2.3", "10.1.2.3"));
  EXPECT_FALSE(in("10.1.2.4", "10.1.2.3"));
  EXPECT_TRUE(in("10.255.0.1", "10.0.0.0/8"));
  EXPECT_FALSE(in("11.0.0.1", "10.0.0.0/8"));
  EXPECT_TRUE(in("10.1.2.129", "10.1.2.128/25"));
  EXPECT_FALSE(in("10.1.2.127", "10.1.2.128/25"));
  EXPECT_TRUE(in("::ffff:10.1.2.3", "10.0.0.0/8"));
  EXPECT_TRUE(in("10.1.2.3", "::ffff:10.0.0.0/104"));
  EXPECT_TRUE(in("8.8.8.8", "0.0.0.0/0"));
  EXPECT_FALSE(in("::1", "0.0.0.0/0"));
  EXPECT_TRUE(in("::1", "::/0"));
  EXPECT_FALSE(in("8.8.8.8", "::/0"));
  EXPECT_TRUE(in("fe80::1%eth0", "fe80::/10"));
  EXPECT_FALSE(in("fec0::1", "fe80::/10"));
  EXPECT_FALSE(in("", "0.0.0.0/0"));
  EXPECT_FALSE(in("unix", "::/0"));
  EXPECT_FALSE(is_trusted("10.1.2.3", {}));
}

}  // namespace
}  // namespace modelpool::serve
