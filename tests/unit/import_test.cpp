#include "import/import.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "config/pool_file.hpp"
#include "support/pool.hpp"
#include "support/scratch.hpp"

namespace modelpool::serve {
namespace {

using test::text_of;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;
using ::testing::StartsWith;

class ImportTest : public ::testing::Test {
 protected:
  std::string make(const std::string& name, const std::string& text) const {
    const std::string path = scratch_.path(name);
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    test::write_file(path, text);
    return path;
  }
  // What a program reads of what comes out; imported_ has the rest.
  config::PoolFile import(const std::string& path) {
    auto imported = import_config(path);
    EXPECT_TRUE(imported) << text_of(imported);
    if (!imported) return {};
    imported_ = std::move(*imported);
    auto file =
        config::read_pool_file("/etc/pool.toml", imported_.text, {}, config::Variables::kLeft);
    EXPECT_TRUE(file) << text_of(file) << imported_.text;
    return file ? std::move(*file) : config::PoolFile{};
  }
  // Why a key is not carried over; "carried" if it is, "unknown" if it is in no list.
  std::string fate(const std::string& key) const {
    for (const ImportedKey& one : imported_.keys) {
      if (one.key == key) return one.reason.empty() ? "carried" : one.reason;
    }
    return "unknown";
  }
  static const config::Model& model(const config::PoolFile& file, const std::string& name) {
    static const config::Model kNone;
    for (const config::Model& one : file.door.models) {
      if (one.name == name) return one;
    }
    ADD_FAILURE() << "no model " << name;
    return kNone;
  }

  test::Scratch scratch_;
  Imported imported_;
};

TEST_F(ImportTest, ALlamaSwapConfigBecomesModels) {
  ASSERT_EQ(setenv("IMPORT_TEST_DIR", "/m", 1), 0);
  const config::PoolFile file = import(make("swap.yaml", R"(
healthCheckTimeout: 500
unloadTimeout: 20
logLevel: info
startPort: 10001
sendLoadingState: true
globalTTL: 30
apiKeys: ["sk-secret"]
macros:
  server: >
    /opt/llama-server --port ${PORT}
  ctx: 4096
  args: "--ctx-size ${ctx}"
hooks: { on_startup: { preload: ["gpt 4", "fixed"] } }
models:
  "gpt-oss:120b":
    macros: { ctx: 16384 }
    cmd: |
      # ${server} and ${nothing}
      ${server}
      --model ${env.IMPORT_TEST_DIR}/a.gguf ${args}
      --name 'x ${MODEL_ID}'
    name: "display"
    env: ["CUDA_VISIBLE_DEVICES=0,1", "TOKEN=${env.SECRET}"]
    checkEndpoint: /custom
    ttl: 60
    unloadTimeout: 40
    aliases: [{ id: "gpt 4" }, "mini"]
    concurrencyLimit: 3
    filters: { stripParams: "top_p" }
    cmdStop: docker stop x
  fixed:
    cmd: server --port 9999
    proxy: "http://127.0.0.1:9999/"
    checkEndpoint: none
    ttl: 0
    unloadTimeout: 0
  inherits:
    cmd: server --port ${PORT}
    proxy: http://localhost:${PORT}
    newkey: 1
)"));
  unsetenv("IMPORT_TEST_DIR");
  const config::Model& a = model(file, "gpt-oss:120b");
  EXPECT_THAT(a.command,
              ElementsAre("/opt/llama-server", "--port", "{port}", "--model", "/m/a.gguf",
                          "--ctx-size", "16384", "--name", "x gpt-oss:120b"));
  EXPECT_EQ(a.ready.path, "/custom");
  EXPECT_THAT(a.aliases, ElementsAre("gpt 4", "mini"));
  EXPECT_THAT(a.env, ElementsAre(Pair("CUDA_VISIBLE_DEVICES", "0,1"), Pair("TOKEN", "${SECRET}")));
  EXPECT_EQ(a.address, "");
  EXPECT_TRUE(a.preload) << "by an alias";
  EXPECT_TRUE(model(file, "fixed").preload);
  EXPECT_FALSE(model(file, "inherits").preload);
  const Effective rules = test::effective_of(file.settings, "gpt-oss:120b");
  EXPECT_EQ(rules.get(Setting::kIdleTimeout), 60 * config::kSecond_ns);
  EXPECT_EQ(rules.get(Setting::kParallel), 3u);
  EXPECT_EQ(rules.get(Setting::kStopGrace), 40 * config::kSecond_ns);
  EXPECT_EQ(test::effective_of(file.settings, "fixed").get(Setting::kStopGrace),
            20 * config::kSecond_ns);
  EXPECT_EQ(fate("models.fixed.unloadTimeout"), "it is no number of seconds");
  EXPECT_EQ(model(file, "fixed").address, "127.0.0.1:9999");
  EXPECT_EQ(model(file, "fixed").ready.kind, config::ReadyCheck::Kind::kTcp);
  EXPECT_EQ(test::effective_of(file.settings, "fixed").get(Setting::kIdleTimeout), 0u);
  EXPECT_EQ(test::effective_of(file.settings, "inherits").get(Setting::kIdleTimeout),
            30 * config::kSecond_ns);
  EXPECT_EQ(file.settings.get(Setting::kLoadTimeout), 500 * config::kSecond_ns);
  EXPECT_EQ(file.settings.get(Setting::kMaxBackends), 1u) << "without groups one at a time";

  for (const char* const key :
       {"healthCheckTimeout", "macros", "globalTTL", "sendLoadingState", "hooks.on_startup.preload",
        "models.gpt-oss:120b.cmd", "models.fixed.proxy"})
    EXPECT_EQ(fate(key), "carried") << key;
  for (const char* const key :
       {"logLevel", "startPort", "apiKeys", "models.gpt-oss:120b.name",
        "models.gpt-oss:120b.filters", "models.gpt-oss:120b.cmdStop", "models.inherits.newkey"}) {
    EXPECT_THAT(fate(key), AllOf(Not("carried"), Not("unknown"))) << key;
    EXPECT_THAT(imported_.text, HasSubstr("#   " + std::string(key) + ": "));
    EXPECT_THAT(imported_.report(), HasSubstr("not carried over: " + std::string(key) + ": "));
  }
  EXPECT_THAT(imported_.text, Not(HasSubstr("sk-secret")));
}

TEST_F(ImportTest, WhatLlamaSwapPreloadsMustBeThere) {
  const std::string models = "models: { a: { cmd: 's ${PORT}' } }\n";
  const auto why = [&](const std::string& hooks, const char* key) {
    import(make("swap.yml", models + "hooks: " + hooks + "\n"));
    return fate(key);
  };
  EXPECT_EQ(why("{ on_startup: { preload: [a, b, c] } }", "hooks.on_startup.preload"),
            "there is no model b, c");
  EXPECT_THAT(why("{ on_startup: { preload: a } }", "hooks"), HasSubstr("a list"));
  EXPECT_THAT(why("[a]", "hooks"), HasSubstr("nothing like it"));
}

TEST_F(ImportTest, GroupsOfLlamaSwapThatSwapAreGroups) {
  const config::PoolFile file = import(make("swap.yml", R"(
models:
  a: { cmd: "s ${PORT}" }
  b: { cmd: "s ${PORT}" }
  c: { cmd: "s ${PORT}" }
  d: { cmd: "s ${PORT}" }
  e: { cmd: "s ${PORT}" }
groups:
  one: { members: [a, b] }
  side: { swap: true, exclusive: false, members: [c] }
  together: { swap: false, members: [d] }
)"));
  const auto groups_of = [&](const char* name) {
    return std::string(test::effective_of(file.settings, name).text(Setting::kGroups));
  };
  EXPECT_EQ(groups_of("a"), "exclusive");
  EXPECT_EQ(groups_of("b"), "exclusive");
  EXPECT_EQ(groups_of("c"), "group-side");
  EXPECT_EQ(groups_of("d"), "");
  EXPECT_EQ(groups_of("e"), "exclusive") << "llama-swap has it in a group of its own";
  EXPECT_EQ(fate("groups.one"), "carried");
  EXPECT_THAT(fate("groups.together"), HasSubstr("may be loaded together"));
  EXPECT_EQ(file.settings.get(Setting::kMaxBackends), 0u);
}

TEST_F(ImportTest, AMatrixOfLlamaSwapLoadsOneAtATimeUntilMoreIsSaid) {
  const config::PoolFile file =
      import(make("swap.yml", "models: { a: { cmd: 's ${PORT}' } }\nmatrix: { vars: { x: a } }\n"));
  EXPECT_EQ(file.settings.get(Setting::kMaxBackends), 1u);
  EXPECT_THAT(fate("matrix"), HasSubstr("one at a time"));
}

TEST_F(ImportTest, AModelThatSomethingIsMissingOfIsAComment) {
  const config::PoolFile file = import(make("swap.yaml", R"(
models:
  good: { cmd: "s ${PORT}" }
  nowhere: { cmd: "s --port 80" }
  unknown: { cmd: "s ${PORT} ${nothing}" }
  open: { cmd: "s ${PORT} 'x" }
  circle: { macros: { x: "${y}", y: "${x}" }, cmd: "s ${PORT} ${x}" }
)"));
  ASSERT_EQ(file.door.models.size(), 1u);
  EXPECT_EQ(file.door.models[0].name, "good");
  EXPECT_THAT(imported_.text, HasSubstr("#[models.\"nowhere\"]\n#command = "));
  EXPECT_THAT(fate("models.nowhere.proxy"), HasSubstr("where it answers is not said"));
  EXPECT_THAT(fate("models.unknown.cmd"), HasSubstr("${nothing} is not known"));
  EXPECT_THAT(fate("models.open.cmd"), HasSubstr("not closed"));
  EXPECT_THAT(fate("models.circle.cmd"), HasSubstr("not known"));
}

TEST_F(ImportTest, APresetOfLlamaCppBecomesModels) {
  const config::PoolFile file = import(make("models.ini", R"(version = 1
; for all
[*]
c = 8192
n-gpu-layers = 8
jinja = true

[ggml-org/MY-MODEL-GGUF:Q8_0]
chat-template = chatml ; a comment
n-gpu-layers = 123
LLAMA_ARG_CACHE_RAM = 0
stop-timeout = 20
load-on-startup = true
port = 1234

[custom]
model = /m/my model.gguf
mmap = false
no-warmup = true
metrics = 1
embeddings = false
flash-attn = on
alias = one, two

[nothing]
temp = 1.0
)"));
  ASSERT_EQ(file.door.models.size(), 2u);
  const config::Model& hf = model(file, "ggml-org/MY-MODEL-GGUF:Q8_0");
  EXPECT_THAT(hf.command,
              ElementsAre("llama-server", "-c", "8192", "--jinja", "--chat-template", "chatml",
                          "--n-gpu-layers", "123", "--hf-repo", "ggml-org/MY-MODEL-GGUF:Q8_0",
                          "--host", "127.0.0.1", "--port", "{port}"));
  EXPECT_THAT(hf.env, ElementsAre(Pair("LLAMA_ARG_CACHE_RAM", "0")));
  EXPECT_EQ(test::effective_of(file.settings, hf.name).get(Setting::kStopGrace),
            20 * config::kSecond_ns);
  const config::Model& custom = model(file, "custom");
  EXPECT_THAT(custom.command,
              ElementsAre("llama-server", "-c", "8192", "--n-gpu-layers", "8", "--jinja", "--model",
                          "/m/my model.gguf", "--no-mmap", "--no-warmup", "--metrics",
                          "--flash-attn", "on", "--host", "127.0.0.1", "--port", "{port}"));
  EXPECT_THAT(custom.aliases, ElementsAre("one", "two"));
  EXPECT_EQ(fate("*.c"), "carried");
  EXPECT_EQ(fate("ggml-org/MY-MODEL-GGUF:Q8_0.load-on-startup"), "carried");
  EXPECT_TRUE(hf.preload);
  EXPECT_FALSE(custom.preload);
  EXPECT_THAT(fate("ggml-org/MY-MODEL-GGUF:Q8_0.port"), HasSubstr("picks a port"));
  EXPECT_THAT(fate("nothing"), HasSubstr("names no model"));
  EXPECT_THAT(imported_.text, HasSubstr("#[models.\"nothing\"]\n"));
}

TEST_F(ImportTest, AFolderOfLocalAiBecomesModels) {
  make("models/a.yaml", R"(
name: gpt-4
backend: llama-cpp
parameters: { model: sub/a.gguf, temperature: 0.5, n: 1 }
context_size: 4096
threads: 8
f16: true
gpu_layers: 35
mmap: false
mmproj: mmproj.gguf
embeddings: true
flash_attention: true
stopwords: ["x"]
)");
  make("models/b.yaml", "name: sd\nbackend: diffusers\nparameters: { model: x }\n");
  make("models/c.yaml", "parameters: { model: c.gguf }\n");
  make("models/d.yaml",
       "- { name: d, backend: cuda12-llama-cpp, parameters: { model: 'https://x/d.gguf' } }\n");
  make("models/weights.gguf", "x");
  const std::string folder = scratch_.path("models");
  const config::PoolFile file = import(folder);
  ASSERT_EQ(file.door.models.size(), 2u);
  EXPECT_THAT(model(file, "gpt-4").command,
              ElementsAre("llama-server", "-m", folder + "/sub/a.gguf", "--temp", "0.5",
                          "--ctx-size", "4096", "--threads", "8", "--n-gpu-layers", "35",
                          "--no-mmap", "--mmproj", folder + "/mmproj.gguf", "--embeddings",
                          "--flash-attn", "on", "--host", "127.0.0.1", "--port", "{port}"));
  EXPECT_EQ(model(file, "c").command[2], folder + "/c.gguf");
  EXPECT_THAT(fate("sd"), HasSubstr("its backend is diffusers"));
  EXPECT_THAT(fate("gpt-4.stopwords"), HasSubstr("nothing is translated"));
  EXPECT_THAT(fate("gpt-4.parameters.n"), HasSubstr("requests say it"));
  EXPECT_THAT(fate("d.parameters.model"), HasSubstr("nothing is downloaded"));
  EXPECT_EQ(fate("gpt-4.f16"), "carried");
}

TEST_F(ImportTest, GroupsAndPinsOfLocalAiAreOurs) {
  make("models/a.yaml",
       "- { name: a, parameters: { model: a.gguf }, concurrency_groups: [heavy, 'gpu 1'] }\n"
       "- { name: b, parameters: { model: b.gguf }, concurrency_groups: [heavy], pinned: true }\n"
       "- { name: c, parameters: { model: c.gguf }, concurrency_groups: heavy, pinned: false }\n");
  const config::PoolFile file = import(scratch_.path("models"));
  EXPECT_EQ(test::effective_of(file.settings, "a").text(Setting::kGroups), "heavy, gpu_1");
  EXPECT_EQ(test::effective_of(file.settings, "b").text(Setting::kGroups), "heavy");
  EXPECT_NE(test::effective_of(file.settings, "b").get(Setting::kPinned), 0u);
  EXPECT_EQ(test::effective_of(file.settings, "c").get(Setting::kPinned), 0u);
  EXPECT_EQ(fate("c.concurrency_groups"), "it is no list of names");
  EXPECT_EQ(fate("b.pinned"), "carried");
}

TEST_F(ImportTest, OneFileOfLocalAiIsKnownByItsKeys) {
  const config::PoolFile file =
      import(make("x.yaml", "name: one\nbackend: llama\nparameters: { model: one.gguf }\n"));
  EXPECT_EQ(model(file, "one").command[2], scratch_.path("one.gguf"));
}

TEST_F(ImportTest, P13WhatCannotBeReadSaysWhere) {
  const auto error_of = [&](const std::string& name, const std::string& text) {
    return text_of(import_config(make(name, text)));
  };
  EXPECT_THAT(error_of("x.yaml", "models:\n  a: [\n"),
              StartsWith("unable to import " + scratch_.path("x.yaml") + ":"));
  EXPECT_THAT(error_of("x.yaml", "a: 1\n"), HasSubstr("it has no models"));
  EXPECT_THAT(error_of("x.ini", "[a]\nmodel\n"), HasSubstr("x.ini:2: it is neither"));
  EXPECT_THAT(error_of("x.ini", "[]\n"), HasSubstr("x.ini:1: a section has no name"));
  EXPECT_THAT(error_of("x.json", "{}"), HasSubstr("no kind of file that is known"));
  EXPECT_THAT(error_of("x.yaml",
                       "models: { a: { cmd: 's ${PORT}', aliases: [b] }, "
                       "b: { cmd: 's ${PORT}' } }\n"),
              HasSubstr("cannot stand in a pool.toml"));
  std::filesystem::create_directory(scratch_.path("empty"));
  EXPECT_THAT(text_of(import_config(scratch_.path("empty"))), HasSubstr("there is no *.yaml"));
  EXPECT_THAT(text_of(import_config(scratch_.path("none.yaml"))), HasSubstr("No such file"));
}

TEST_F(ImportTest, NothingOfASourceLeavesItsPlace) {
  const config::PoolFile file =
      import(make("x.yaml",
                  "models:\n  \"a\\\"]\\n[pool]\\nmax_backends = 7 #\": 3\n"
                  "  b: { cmd: \"s ${PORT} \\\"x\\\\ny\\\"\", \"k\\nmax_loads = 3\": 1 }\n"));
  EXPECT_EQ(file.settings.get(Setting::kMaxBackends), 1u);
  EXPECT_EQ(file.settings.get(Setting::kMaxLoads), 0u);
  EXPECT_EQ(file.door.models.size(), 1u);
}

}  // namespace
}  // namespace modelpool::serve
