#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

#include "config/keys.hpp"
#include "config/listen.hpp"
#include "config/models_reader.hpp"
#include "config/pool_file.hpp"
#include "config/summary.hpp"
#include "config/words.hpp"
#include "support/pool.hpp"
#include "support/scratch.hpp"

namespace modelpool::config {
namespace {

using test::effective_of;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

Listener listener(const std::string& address, Auth auth = Auth::kDefault, std::uint32_t line = 0) {
  Listener made;
  made.address = address;
  made.auth = auth;
  made.line = line;
  return made;
}

class DoorConfigTest : public ::testing::Test {
 protected:
  std::string path() const { return scratch_.dir() + "/pool.toml"; }
  // A file beside the config, with this mode.
  std::string make_file(const std::string& name, std::string_view text, mode_t mode = 0600) const {
    const std::string file = scratch_.dir() + "/" + name;
    std::ofstream(file, std::ios::binary) << text;
    EXPECT_EQ(chmod(file.c_str(), mode), 0);
    return file;
  }
  Result<PoolFile> read(const std::string& text, Variables variables = Variables::kResolved) const {
    return read_pool_file(path(), text, {}, variables);
  }
  Door door_of(const std::string& text) const {
    auto file = read(text);
    EXPECT_TRUE(file) << file.error().text;
    return file ? file->door : Door{};
  }
  // What follows "FILE" in the error.
  std::string error_of(const std::string& text) const {
    const auto file = read(text);
    if (file) return "no error";
    const std::string prefix = "unable to read config " + path();
    EXPECT_THAT(file.error().text, StartsWith(prefix));
    return file.error().text.substr(std::min(prefix.size(), file.error().text.size()));
  }
  // Of one model with a command and these lines, from line 3 on.
  std::string error_in_model(const std::string& lines) const {
    return error_of("[models.\"m\"]\ncommand = \"server {port}\"\n" + lines);
  }

  test::Scratch scratch_;
};

TEST_F(DoorConfigTest, TheLeastThatWorksIsRead) {
  const auto file = read(
      "[pool]\nmax_backends = 2\n[serve]\nlisten = [\"127.0.0.1:8080\"]\nworkers = 4\n"
      "[models.\"tiny\"]\ncommand = \"llama-server -m tiny.gguf --port {port}\"\n"
      "ready = \"GET /health\"\n");
  ASSERT_TRUE(file) << file.error().text;
  EXPECT_EQ(file->settings.get(Setting::kMaxBackends), 2u);
  EXPECT_EQ(file->door.serve.workers, 4u);
  ASSERT_EQ(file->door.serve.listeners.size(), 1u);
  EXPECT_EQ(file->door.serve.listeners[0].address, "127.0.0.1:8080");
  EXPECT_EQ(file->door.serve.listeners[0].line, 4u);
  ASSERT_EQ(file->door.models.size(), 1u);
  const Model& tiny = file->door.models[0];
  EXPECT_EQ(tiny.name, "tiny");
  EXPECT_EQ(tiny.line, 6u);
  EXPECT_THAT(tiny.command, ElementsAre("llama-server", "-m", "tiny.gguf", "--port", "{port}"));
  EXPECT_EQ(tiny.ready.kind, ReadyCheck::Kind::kHttp);
  EXPECT_EQ(tiny.ready.path, "/health");
  EXPECT_TRUE(file->settings.rules.empty()) << "a model without rules has none";
}

TEST_F(DoorConfigTest, AFileWithoutTheDoorsTablesHasItsDefaults) {
  EXPECT_EQ(door_of("[pool]\n"), Door{});
}

TEST_F(DoorConfigTest, EveryKeyOfServeIsRead) {
  const std::string keys = make_file("keys.txt", "k\n");
  const Serve serve = door_of(
                          "[serve]\n"
                          "listen = \"[::1]:8080\"\n"
                          "workers = 3\nmax_connections = 20\n"
                          "keys = \"keys.txt\"\nauth = \"keys\"\n"
                          "hosts = [\"models.example\"]\ncors_origins = \"https://chat.example\"\n"
                          "trusted_proxies = [\"10.0.0.0/8\", \"::1\"]\n"
                          "loading = \"off\"\naccess_log = \"access.log\"\n"
                          "access_log_format = \"json\"\n"
                          "body_memory = \"2MiB\"\nbody_limit = \"3MiB\"\n"
                          "bodies_memory = \"4MiB\"\nbodies_disk = \"5MiB\"\nbody_dir = \"/tmp\"\n"
                          "header_timeout = \"1s\"\nkeepalive_timeout = \"2s\"\n"
                          "client_timeout = \"3s\"\nqueue_timeout = \"4s\"\n"
                          "request_timeout = \"5s\"\nshutdown_timeout = \"6s\"\n"
                          "drain_timeout_serve = \"7s\"\ntunnel_idle = \"off\"\n")
                          .serve;
  Serve expected;
  expected.listeners = {listener("[::1]:8080", Auth::kKeys, 2)};
  expected.auth = Auth::kKeys;
  expected.workers = 3;
  expected.max_connections = 20;
  expected.keys_file = keys;
  expected.hosts = {"models.example"};
  expected.cors_origins = {"https://chat.example"};
  expected.trusted_proxies = {"10.0.0.0/8", "::1"};
  expected.loading_comments = false;
  expected.access_log = scratch_.dir() + "/access.log";
  expected.access_log_json = true;
  expected.body_memory_bytes = 2 << 20;
  expected.body_limit_bytes = 3 << 20;
  expected.bodies_memory_bytes = 4 << 20;
  expected.bodies_disk_bytes = 5 << 20;
  expected.body_dir = "/tmp";
  expected.header_timeout_ns = 1 * kSecond_ns;
  expected.keepalive_timeout_ns = 2 * kSecond_ns;
  expected.client_timeout_ns = 3 * kSecond_ns;
  expected.queue_timeout_ns = 4 * kSecond_ns;
  expected.request_timeout_ns = 5 * kSecond_ns;
  expected.shutdown_timeout_ns = 6 * kSecond_ns;
  expected.drain_timeout_serve_ns = 7 * kSecond_ns;
  expected.tunnel_idle_ns = 0;
  EXPECT_EQ(serve, expected);
}

TEST_F(DoorConfigTest, AListenerHasWhatOneLineCannotSay) {
  const std::string cert = make_file("door.pem", "c");
  const std::string key = make_file("door.key", "k");
  const std::string ca = make_file("ca.pem", "a");
  const Serve serve =
      door_of(
          "[[serve.listener]]\naddress = \"0.0.0.0:8443\"\nauth = \"peer\"\n"
          "tls = { cert = \"door.pem\", key = \"door.key\", client_ca = \"ca.pem\" }\n"
          "[[serve.listener]]\naddress = \"unix:/run/x.sock\"\nmode = \"0660\"\n"
          "group = \"root\"\nauth = \"none\"\n")
          .serve;
  ASSERT_EQ(serve.listeners.size(), 2u);
  const Listener& peers = serve.listeners[0];
  EXPECT_EQ(peers.auth, Auth::kPeer);
  EXPECT_EQ(peers.tls_cert, cert);
  EXPECT_EQ(peers.tls_key, key);
  EXPECT_EQ(peers.tls_client_ca, ca);
  EXPECT_EQ(peers.line, 2u);
  EXPECT_EQ(serve.listeners[1].mode, 0660u);
  EXPECT_EQ(serve.listeners[1].group, "root");
  EXPECT_EQ(serve.listeners[1].auth, Auth::kNone);
}

TEST_F(DoorConfigTest, P13AnAddressForOthersNeedsKeysOrAWord) {
  EXPECT_EQ(error_of("[serve]\nlisten = \"0.0.0.0:8080\"\n"),
            ":2: whoever reaches \"0.0.0.0:8080\" could use and evict every model; add keys = "
            "\"FILE\" to [serve], or auth = \"none\" if that is meant");
  EXPECT_EQ(error_of("[serve]\nlisten = \"[::]:8080\"\nauth = \"none\"\n"), "no error");
  make_file("keys.txt", "k\n");
  EXPECT_EQ(error_of("[serve]\nlisten = \"0.0.0.0:8080\"\nkeys = \"keys.txt\"\n"), "no error");
  EXPECT_EQ(error_of("[serve]\nauth = \"none\"\n[[serve.listener]]\naddress = \"0.0.0.0:80\"\n"),
            ":4: whoever reaches \"0.0.0.0:80\" could use and evict every model; add keys = "
            "\"FILE\" to [serve], or auth = \"none\" if that is meant")
      << "auth of [serve] is that of its own listen";
  EXPECT_THAT(error_of("[serve]\nlisten = \"127.0.0.1:8080\"\nauth = \"keys\"\n"),
              HasSubstr("asks for keys and there are none"));
  EXPECT_THAT(error_of("[serve]\nlisten = \"127.0.0.1:8080\"\nauth = \"peer\"\n"),
              HasSubstr("add tls = { cert, key, client_ca }"));
  // Where no `listen` stands it is that of the default, and of flags.
  EXPECT_THAT(error_of("[serve]\nauth = \"keys\"\n"),
              AllOf(StartsWith(":2:1: "), HasSubstr("asks for keys and there are none")));
  EXPECT_THAT(error_of("[serve]\nauth = \"peer\"\n"), HasSubstr("add tls = "));
  EXPECT_EQ(error_of("[serve]\nauth = \"keys\"\nkeys = \"keys.txt\"\n"), "no error");
  EXPECT_EQ(door_of("[serve]\nauth = \"none\"\n").serve.auth, Auth::kNone);
  Serve of_flags;
  of_flags.listeners = {listener("192.168.1.1:80")};
  EXPECT_THAT(test::text_of(check_listeners(of_flags)),
              StartsWith("unable to listen: whoever reaches"));
}

TEST_F(DoorConfigTest, P13ListenersMustNotCollide) {
  EXPECT_EQ(error_of("[serve]\nlisten = [\"127.0.0.1:80\",\n \"localhost:80\"]\n"),
            ":3: cannot listen at \"localhost:80\" twice: \"127.0.0.1:80\" is there, first in line "
            "2; remove one");
  EXPECT_THAT(error_of("[serve]\nlisten = [\"0.0.0.0:80\", \"127.0.0.1:80\"]\nauth = \"none\"\n"),
              HasSubstr("twice"));
  EXPECT_THAT(error_of("[serve]\nlisten = [\"unix:/run/a/../x\", \"unix:/run/x\"]\n"),
              HasSubstr("twice"));
  EXPECT_EQ(error_of("[serve]\nlisten = [\"127.0.0.1:80\", \"[::1]:80\", \"127.0.0.1:0\", "
                     "\"127.0.0.1:0\"]\n"),
            "no error");
}

TEST_F(DoorConfigTest, P13ABodyThatNeverFitsIsRefused) {
  const auto error_in = [this](const std::string& lines) { return error_of("[serve]\n" + lines); };
  EXPECT_EQ(error_in("body_limit = \"64MiB\"\nbodies_disk = 0\n"),
            ":3:15: a body of 64MiB never fits into bodies_disk, 0B; raise bodies_disk, or lower "
            "body_limit");
  EXPECT_THAT(error_in("body_limit = \"5GiB\"\n"),
              StartsWith(":2:14: a body of 5GiB never fits into bodies_disk, 4GiB;"));
  EXPECT_THAT(error_in("body_memory = \"512MiB\"\nbody_limit = \"512MiB\"\n"),
              HasSubstr("never fits into bodies_memory, 256MiB"));
  for (const char* const fits :
       {"body_limit = \"1MiB\"\nbodies_disk = 0\n", "body_memory = \"512MiB\"\n",
        "body_limit = \"4GiB\"\n", "body_memory = 0\nbodies_disk = \"64MiB\"\n"})
    EXPECT_EQ(error_in(fits), "no error") << fits;
}

TEST_F(DoorConfigTest, P13MoreAddressesThanANextDoorCanTakeOverAreRefused) {
  std::string listen = "\"127.0.0.1:0\"";
  for (std::size_t i = 1; i < kListenersMax; ++i) listen += ", \"127.0.0.1:0\"";
  EXPECT_EQ(error_of("[serve]\nlisten = [" + listen + "]\n"), "no error");
  EXPECT_EQ(error_of("[serve]\nlisten = [" + listen + ",\n\"[::1]:0\"]\n"),
            ":3: there are 65 addresses to listen at, and more than 64 are not possible; remove "
            "some");
}

TEST_F(DoorConfigTest, P13AnAddressThatNobodyCanListenAtIsRefused) {
  const auto error_at = [](std::string_view text) { return test::text_of(parse_listen(text)); };
  EXPECT_THAT(error_at("8080"), HasSubstr("the port is missing"));
  EXPECT_THAT(error_at(":8080"), HasSubstr("the host is missing"));
  EXPECT_THAT(error_at("127.0.0.1:http"), HasSubstr("the port is not a number"));
  EXPECT_THAT(error_at("127.0.0.1:65536"), HasSubstr("the port is not a number"));
  EXPECT_THAT(error_at("::1:8080"), HasSubstr("in brackets"));
  EXPECT_THAT(error_at("[::ffff:1.2.3.4]:80"), HasSubstr("without brackets"));
  EXPECT_THAT(error_at("[127.0.0.1]:80"), HasSubstr("no number of IPv6"));
  EXPECT_THAT(error_at("models.example:80"), HasSubstr("no resolver is asked"));
  EXPECT_THAT(error_at("http://127.0.0.1:80"), HasSubstr("unable to listen at"));
  EXPECT_THAT(error_at("unix:x.sock"), HasSubstr("does not begin with /"));
  EXPECT_THAT(error_at("unix:/run/"), HasSubstr("names a folder"));
  EXPECT_THAT(error_at("unix:/" + std::string(108, 'x')), HasSubstr("longer than 107 bytes"));
  EXPECT_THAT(error_at("127.0.0.1:80 "), HasSubstr("blank"));
  EXPECT_EQ(
      error_of("[serve]\nlisten = [\"127.0.0.1:1\",\n  \"x\"]\n"),
      ":3:3: cannot listen at \"x\": the port is missing; write 127.0.0.1:8080, [::1]:8080 or "
      "unix:/run/door.sock");
}

TEST_F(DoorConfigTest, P13WhatServeNamesMustBeThereAndPrivate) {
  make_file("open.txt", "k\n", 0644);
  EXPECT_EQ(error_of("[serve]\nkeys = \"open.txt\"\n"),
            ":2:8: keys: cannot use " + scratch_.dir() +
                "/open.txt: others may open it; run chmod "
                "600 " +
                scratch_.dir() + "/open.txt");
  EXPECT_THAT(error_of("[serve]\nkeys = \"none.txt\"\n"), HasSubstr("No such file or directory"));
  EXPECT_THAT(error_of("[serve]\nkeys = \".\"\n"), HasSubstr("not a regular file"));
  EXPECT_THAT(error_of("[serve]\nbody_dir = \"/none\"\n"), HasSubstr("No such file or directory"));
  EXPECT_THAT(error_of("[serve]\nbody_dir = \"open.txt\"\n"), HasSubstr("it is no folder"));
  EXPECT_THAT(error_of("[[serve.listener]]\naddress = \"127.0.0.1:1\"\n"
                       "tls = { cert = \"open.txt\", key = \"none.key\" }\n"),
              AllOf(StartsWith(":3:34: key: cannot read "), HasSubstr("No such file")));
  EXPECT_THAT(error_of("[[serve.listener]]\naddress = \"127.0.0.1:1\"\n"
                       "tls = { cert = \"open.txt\" }\n"),
              StartsWith(":3:7: tls has no key; write it like"));
}

TEST_F(DoorConfigTest, P13AWrongValueOfServeSaysWhatToWrite) {
  const auto error_in = [this](const std::string& line) { return error_of("[serve]\n" + line); };
  EXPECT_EQ(error_in("workers = 0\n"), ":2:11: workers takes a number from 1 to 256");
  EXPECT_EQ(error_in("workers = 257\n"), ":2:11: workers takes a number from 1 to 256");
  EXPECT_EQ(error_in("workers = \"4\"\n"), ":2:11: workers takes a number from 1 to 256");
  EXPECT_THAT(error_in("client_timeout = 60\n"), HasSubstr("a unit is missing"));
  EXPECT_THAT(error_in("client_timeout = 60s\n"), HasSubstr("the quotes are missing"));
  EXPECT_THAT(error_in("body_limit = \"off\"\n"), StartsWith(":2:14: cannot"));
  EXPECT_THAT(error_in("body_limit = 0\n"), HasSubstr("takes a size from 1B"));
  EXPECT_EQ(error_in("loading = \"on\"\n"), ":2:11: loading takes \"comments\" or \"off\"");
  EXPECT_EQ(error_in("auth = \"key\"\n"), ":2:8: auth takes \"none\", \"keys\" or \"peer\"");
  EXPECT_EQ(error_in("worker = 4\n"), ":2:1: unknown key \"worker\"; did you mean workers?");
  EXPECT_THAT(error_in("zebra = 4\n"), HasSubstr("; there are listen, "));
  EXPECT_THAT(error_in("cors_origins = [\"https://a/\"]\n"), HasSubstr("write it like"));
  EXPECT_THAT(error_in("trusted_proxies = [\"10.0.0.0/33\"]\n"), HasSubstr("write it like"));
  EXPECT_THAT(error_in("hosts = [\"a:80\"]\n"), HasSubstr("write it like"));
  EXPECT_THAT(error_in("hosts = [3]\n"), HasSubstr("hosts has an integer in it"));
  EXPECT_THAT(error_in("listener = 3\n"), HasSubstr("write each as [[serve.listener]]"));
  EXPECT_THAT(error_of("[[serve]]\n"), HasSubstr("write it as one table, [serve]"));
  const auto error_of_listener = [this](const std::string& lines) {
    return error_of("[[serve.listener]]\n" + lines);
  };
  EXPECT_THAT(error_of_listener("auth = \"none\"\n"), HasSubstr("without address"));
  EXPECT_THAT(error_of_listener("address = \"unix:/run/x\"\nmode = 660\n"),
              HasSubstr("mode takes what chmod does"));
  EXPECT_THAT(error_of_listener("address = \"unix:/run/x\"\nmode = \"0888\"\n"),
              HasSubstr("mode takes what chmod does"));
  EXPECT_THAT(error_of_listener("address = \"127.0.0.1:1\"\nmode = \"0660\"\n"),
              HasSubstr("belong to a Unix socket"));
  EXPECT_THAT(error_of_listener("address = \"unix:/run/x\"\ngroup = \"no such\"\n"),
              HasSubstr("there is no group"));
  EXPECT_THAT(error_of_listener("adress = \"127.0.0.1:1\"\n"),
              HasSubstr("unknown key \"adress\"; did you mean address?"));
}

TEST(SplitWords, PartsAsAShellDoesAndExpandsNothing) {
  const auto words = [](std::string_view text) { return split_words(text).value(); };
  EXPECT_THAT(words("a  b\tc\nd"), ElementsAre("a", "b", "c", "d"));
  EXPECT_THAT(words(""), IsEmpty());
  EXPECT_THAT(words("a '' \"\""), ElementsAre("a", "", ""));
  EXPECT_THAT(words("'a b'c\"d e\""), ElementsAre("a bcd e"));
  EXPECT_THAT(words("a\\ b \\\"c \\\\"), ElementsAre("a b", "\"c", "\\"));
  EXPECT_THAT(words(R"("a\"b\\c\$d\e" 'x\y')"), ElementsAre("a\"b\\c$d\\e", "x\\y"));
  EXPECT_THAT(words("a \\\n  b \"c\\\nd\""), ElementsAre("a", "b", "cd"));
  EXPECT_THAT(words("$HOME ~ *.gguf {port} a|b && #c"),
              ElementsAre("$HOME", "~", "*.gguf", "{port}", "a|b", "&&", "#c"));
  EXPECT_THAT(test::text_of(split_words("a 'b")), HasSubstr("a ' is not closed"));
  EXPECT_THAT(test::text_of(split_words("a \"b\\\"")), HasSubstr("a \" is not closed"));
  EXPECT_THAT(test::text_of(split_words("a \\")), HasSubstr("ends in a single \\"));
}

TEST(SplitWords, ReadsBackWhatQuoteWordWrites) {
  for (const std::string word :
       {"", "a", "a b", "it's", "'", "\"", "\\", "a\nb", "$x", "ü", "{port}"})
    EXPECT_THAT(split_words("x " + quote_word(word)).value(), ElementsAre("x", word));
}

TEST_F(DoorConfigTest, EveryKeyOfAModelIsRead) {
  ASSERT_EQ(setenv("DOOR_CONFIG_TEST", "hf_1", 1), 0);
  make_file("secret", "s3cret\n");
  const Door door = door_of(
      "[models.\"Qwen/Qwen3-8B-GGUF:Q4_K_M\"]\n"
      "command = [\"srv\", \"--socket\", \"{socket}\", \"a b\"]\n"
      "ready = \"tcp\"\naliases = [\"gpt 4\", \"ü\"]\n"
      "env = { HF_TOKEN = \"x-${DOOR_CONFIG_TEST}\", KEY = { file = \"secret\" }, "
      "N = 3 }\n"
      "cwd = \"work\"\nlog = \"/var/log/q.log\"\nweights = \"/m/q.gguf\"\npreload = true\n"
      "backend_key = { file = \"secret\" }\n"
      "address = \"unix:{socket}\"\n");
  unsetenv("DOOR_CONFIG_TEST");
  ASSERT_EQ(door.models.size(), 1u);
  const Model& model = door.models[0];
  EXPECT_EQ(model.name, "Qwen/Qwen3-8B-GGUF:Q4_K_M");
  EXPECT_THAT(model.command, ElementsAre("srv", "--socket", "{socket}", "a b"));
  EXPECT_EQ(model.ready.kind, ReadyCheck::Kind::kTcp);
  EXPECT_THAT(model.aliases, ElementsAre("gpt 4", "ü"));
  using Variable = std::pair<std::string, std::string>;
  EXPECT_THAT(model.env, ElementsAre(Variable("HF_TOKEN", "x-hf_1"), Variable("KEY", "s3cret"),
                                     Variable("N", "3")));
  EXPECT_EQ(model.cwd, scratch_.dir() + "/work");
  EXPECT_EQ(model.log, "/var/log/q.log");
  EXPECT_EQ(model.weights, "/m/q.gguf");
  EXPECT_TRUE(model.preload);
  EXPECT_EQ(model.backend_key, "s3cret");
  EXPECT_EQ(model.address, "unix:{socket}");
}

TEST_F(DoorConfigTest, ARuleUnderAModelIsOneOfThePoolAndWinsOverGlobs) {
  const auto file = read(
      "[models.\"a\"]\ncommand = \"s {port}\"\nidle-timeout = \"1m\"\npinned = true\n"
      "memory = \"2GiB\"\ngroups = [\"heavy\"]\n"
      "[[model]]\nmatch = \"*\"\nidle_timeout = \"5m\"\nparallel = 3\n");
  ASSERT_TRUE(file) << file.error().text;
  const Effective a = effective_of(file->settings, "a");
  EXPECT_EQ(a.get(Setting::kIdleTimeout), 60 * kSecond_ns);
  EXPECT_EQ(a.origin(Setting::kIdleTimeout).line, 3u);
  EXPECT_EQ(a.get(Setting::kPinned), 1u);
  EXPECT_EQ(a.get(Setting::kMemory), std::uint64_t{2} << 30);
  EXPECT_EQ(a.text(Setting::kGroups), "heavy");
  EXPECT_EQ(a.get(Setting::kParallel), 3u) << "what it does not say, globs do";
  EXPECT_EQ(effective_of(file->settings, "b").get(Setting::kIdleTimeout), 300 * kSecond_ns);
}

TEST_F(DoorConfigTest, ANameWithCharactersOfAGlobMeansThatModelAlone) {
  for (const std::string name : {"a*", "a[1]", "a?", "a\\\\b", "[!x]"}) {
    const auto file =
        read("[models.\"" + name + "\"]\ncommand = \"s {port}\"\nidle_timeout = \"1m\"\n");
    ASSERT_TRUE(file) << file.error().text;
    const std::string& read_name = file->door.models[0].name;
    EXPECT_EQ(effective_of(file->settings, read_name).get(Setting::kIdleTimeout), 60 * kSecond_ns)
        << name;
    for (const char* const other : {"a1", "ab", "a", "y", "a[2]"})
      EXPECT_EQ(effective_of(file->settings, other).get(Setting::kIdleTimeout), 0u) << name;
  }
}

TEST_F(DoorConfigTest, P13TwoModelsOfOneNameAreRefused) {
  const std::string model = "command = \"s {port}\"\n";
  EXPECT_EQ(error_of("[models.a]\n" + model + "[models.\"a\"]\n" + model),
            ":3:1: [models.\"a\"] is there twice; merge the two, or rename one");
  EXPECT_EQ(error_of("[models.a]\n" + model + "[models.b]\naliases = [\"a\"]\n" + model),
            ":3: the alias \"a\" of \"b\" is the name of a model (line 1); remove one");
  EXPECT_EQ(
      error_of("[models.a]\naliases = \"x\"\n" + model + "[models.b]\naliases = [\"x\"]\n" + model),
      ":4: the alias \"x\" of \"b\" is one of \"a\" (line 1); remove one");
}

TEST_F(DoorConfigTest, P13HowAModelIsStartedAndFoundMustBeSaid) {
  EXPECT_EQ(
      error_of("[models.a]\nready = \"tcp\"\n"),
      ":1:9: \"a\" has neither command nor address; add command = \"llama-server -m tiny.gguf "
      "--port {port}\"");
  EXPECT_EQ(error_of("[models.a]\ncommand = \"s --port 80\"\n"),
            ":1:9: where \"a\" answers is not said; write {port} or {socket} for it in command, or "
            "add address = \"127.0.0.1:8081\"");
  EXPECT_THAT(error_of("[models.a]\ncommand = \"s {port} {socket}\"\n"),
              HasSubstr("say where it answers"));
  EXPECT_THAT(error_of("[models.a]\naddress = \"127.0.0.1:{port}\"\n"),
              HasSubstr("has no command"));
  EXPECT_THAT(error_of("[models.a]\ncommand = \"s\"\naddress = \"127.0.0.1:{port}\"\n"),
              HasSubstr("its command has not"));
  EXPECT_THAT(error_in_model("address = \"127.0.0.1\"\n"), HasSubstr("the port is missing"));
  EXPECT_EQ(error_of("[models.a]\naddress = \"127.0.0.1:80\"\n"), "no error");
  EXPECT_EQ(error_of("[models.a]\ncommand = \"s\"\naddress = \"127.0.0.1:80\"\n"), "no error");
  EXPECT_EQ(error_of("[models.a]\ncommand = \"s\"\nenv = { PORT = \"{port}\" }\n"), "no error");
}

TEST_F(DoorConfigTest, P13AWrongValueOfAModelSaysWhatToWrite) {
  EXPECT_EQ(
      error_of("[models.a]\ncommand = \"s 'x {port}\"\n"),
      ":2:11: command cannot be split: a ' is not closed; add the second one, or write \\' for "
      "the character");
  EXPECT_THAT(error_of("[models.a]\ncommand = \"\"\n"), HasSubstr("command names no program"));
  EXPECT_THAT(error_of("[models.a]\ncommand = []\n"), HasSubstr("command names no program"));
  EXPECT_THAT(error_of("[models.a]\ncommand = [\"s\", 3]\n"), HasSubstr("command has an integer"));
  EXPECT_THAT(error_of("[models.a]\ncommand = 3\n"), HasSubstr("command is an integer"));
  EXPECT_THAT(error_of("[models.a]\ncommand = \"s\\u0000 {port}\"\n"), HasSubstr("zero byte"));
  EXPECT_THAT(error_in_model("ready = \"health\"\n"), StartsWith(":3:9: ready is \"health\""));
  EXPECT_THAT(error_in_model("ready = 3\n"), HasSubstr("ready is an integer"));
  EXPECT_THAT(error_in_model("aliases = [\"\"]\n"), HasSubstr("aliases is empty"));
  EXPECT_THAT(error_in_model("env = \"A=1\"\n"), HasSubstr("env is a string; write it like"));
  EXPECT_THAT(error_in_model("env = { \"A=B\" = \"1\" }\n"), HasSubstr("no name of a variable"));
  EXPECT_THAT(error_in_model("env = { A = true }\n"), HasSubstr("A is a boolean; write it like"));
  EXPECT_THAT(error_in_model("env = { A = \"${}\" }\n"), HasSubstr("names no variable"));
  EXPECT_THAT(error_in_model("env = { A = \"${X\" }\n"), HasSubstr("names no variable"));
  EXPECT_THAT(error_in_model("max_backends = 3\n"), HasSubstr("move it to [pool]"));
  EXPECT_EQ(error_in_model("idle_timout = \"1m\"\n"),
            ":3:1: unknown setting \"idle_timout\"; did you mean idle_timeout?");
  EXPECT_EQ(error_in_model("aliasses = \"x\"\n"),
            ":3:1: unknown setting \"aliasses\"; did you mean aliases?");
  EXPECT_THAT(error_in_model("zebra = 1\n"), HasSubstr("; there are command, ready, "));
  EXPECT_THAT(error_of("[models.\"" + std::string(256, 'n') + "\"]\ncommand = \"s {port}\"\n"),
              HasSubstr("256 bytes"));
  EXPECT_THAT(error_of("[models.Qwen3.5-4B]\ncommand = \"s {port}\"\n"),
              HasSubstr("write [models.\"Qwen3.5-4B\"]"));
  EXPECT_THAT(error_of("[models]\na = 3\n"), HasSubstr("write each model as a table"));
}

TEST_F(DoorConfigTest, P13ASecretThatIsNotThereIsAnErrorForWhoUsesIt) {
  unsetenv("DOOR_CONFIG_TEST");
  const std::string variable =
      "[models.a]\ncommand = \"s {port}\"\nenv = { A = \"${DOOR_CONFIG_TEST}\" }\n";
  EXPECT_EQ(
      error_of(variable),
      ":3:13: A: \"DOOR_CONFIG_TEST\" is not in the environment of this program; set it there, "
      "or write { file = \"PATH\" }");
  EXPECT_THAT(error_of("[models.a]\ncommand = \"s {port}\"\nbackend_key = { file = \"none\" }\n"),
              AllOf(StartsWith(":3:15: backend_key: cannot read "), HasSubstr("No such file")));
  make_file("empty", "\n");
  EXPECT_THAT(error_of("[models.a]\ncommand = \"s {port}\"\nbackend_key = { file = \"empty\" }\n"),
              HasSubstr("it is empty"));
  EXPECT_TRUE(read(variable, Variables::kLeft)) << "coordinatord has another environment";
}

TEST_F(DoorConfigTest, TheSummaryShowsTheDoorsTablesWithoutSecrets) {
  make_file("secret", "s3cret\n");
  const auto file = read(
      "[serve]\nlisten = \"127.0.0.1:99\"\n"
      "[models.\"a\"]\ncommand = \"s {port} --api-key s3cret --hf-token=s3cret 'x y'\"\n"
      "env = { A = \"s3cret\" }\nbackend_key = { file = \"secret\" }\nidle_timeout = \"1m\"\n");
  ASSERT_TRUE(file) << file.error().text;
  const std::string summary = config_summary(file->settings, file->capacities, file->door);
  EXPECT_THAT(summary,
              AllOf(HasSubstr("[serve]\n  listen              127.0.0.1:99 (line 2)\n"),
                    HasSubstr("  workers             one a core, at least 2\n"),
                    HasSubstr("[models.\"a\"]\n  command             s {port} --api-key *** "
                              "--hf-token=*** 'x y'\n"),
                    HasSubstr("  env                 A=***\n"),
                    HasSubstr("  backend_key         ***\n"), Not(HasSubstr("s3cret"))));
}

TEST_F(DoorConfigTest, ThePathOfATextIsWhereItWasReadFrom) {
  const auto file = read_pool_file("/etc/modelpool/pool.toml",
                                   "[models.a]\ncommand = \"s {port}\"\nlog = \"a.log\"\n");
  ASSERT_TRUE(file) << file.error().text;
  EXPECT_EQ(file->door.models[0].log, "/etc/modelpool/a.log");
  EXPECT_EQ(file->settings.config_path, "/etc/modelpool/pool.toml");
  EXPECT_THAT(file->text, StartsWith("[models.a]"));
}

// Of a line that begins "#key = value" or "#[table]", what stands behind the #.
std::string uncommented(const std::string& text) {
  std::istringstream lines(text);
  std::string all;
  for (std::string line; std::getline(lines, line);) {
    const bool is_code = line.size() > 1 && line[0] == '#' && line[1] != ' ';
    all += (is_code ? line.substr(1) : line) + "\n";
  }
  return all;
}

TEST_F(DoorConfigTest, TheExampleAndTheReadmeNameEveryKeyAndTheExampleHolds) {
  const std::string folder = std::string(MODELPOOL_SERVICES) + "/";
  const std::string example = uncommented(test::read_file(folder + "example.toml"));
  const std::string readme = test::read_file(folder + "../config/README.md");
  std::vector<std::string_view> keys = serve_keys();
  keys.insert(keys.end(), kListenerKeys.begin(), kListenerKeys.end());
  keys.insert(keys.end(), kModelKeys.begin(), kModelKeys.end());
  std::erase(keys, "listener");
  for (const std::string_view key : keys) {
    EXPECT_THAT(example, HasSubstr("\n" + std::string(key) + " = "));
    EXPECT_THAT(readme, HasSubstr("\n| " + std::string(key) + " | "));
  }
  for (const SettingInfo& info : kSettings)
    EXPECT_THAT(example, HasSubstr("\n" + std::string(info.name) + " = "));
  for (const std::string name : {"poolserve.keys", "door.pem", "door.key"}) make_file(name, "x\n");
  const auto file = read(example, Variables::kLeft);
  EXPECT_TRUE(file) << file.error().text;
}

}  // namespace
}  // namespace modelpool::config
