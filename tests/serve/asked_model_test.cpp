#include "wire/asked_model.hpp"

#include <gtest/gtest.h>

#include <string>

#include "serve/messages.hpp"
#include "wire/top_level.hpp"

namespace modelpool::serve {
namespace {

using namespace std::string_literals;

// "alias" is another name of "a".
bool are_same(const std::string& a, const std::string& b) {
  const auto name = [](const std::string& one) { return one == "alias" ? "a" : one; };
  return name(a) == name(b);
}
const SameModel kSame = are_same;

constexpr const char* kJson = "Content-Type: application/json\n";

http::header<true> post(const std::string& target, const std::string& fields = kJson) {
  return request_of("POST " + target + " HTTP/1.1\nHost: a\n" + fields);
}

Checked<AskedModel> ask(const std::string& target, const std::string& fields,
                        std::string_view body) {
  const auto head = post(target, fields);
  const auto named = model_in_head(head, kSame);
  if (!named) return tl::unexpected(named.error());
  return find_asked_model(head, *named, body, kSame);
}

// Its name, or the refusal's code.
std::string name(const std::string& target, const std::string& fields, std::string_view body) {
  const auto asked = ask(target, fields, body);
  if (asked) return asked->name;
  EXPECT_EQ(asked.error().status, asked.error().code == "coded_body" ? 415 : 400);
  return "-" + asked.error().code;
}
std::string in_json(std::string_view body) { return name("/v1/x", kJson, body); }

TEST(ModelInJson, IsTheStringAtTheTopLevel) {
  EXPECT_EQ(in_json(R"({"model":"a"})"), "a");
  EXPECT_EQ(in_json(" {\"x\" : [ {\"model\":\"b\"}, {} ], \"y\":{\"model\":1},\r\n\t\"model\" : "
                    "\"Qwen/Qwen3 \xc3\xa4\" , \"z\":-1.5e+3, \"t\":[true,false,null,0,\"\"]} \n"),
            "Qwen/Qwen3 \xc3\xa4");
  EXPECT_EQ(in_json(R"({"\u006dodel":"a\u00e4\ud83d\ude00\/\n"})"), "-bad_model_name");
  EXPECT_EQ(in_json(R"({"\u006dod\u0065l":"a\u00e4\ud83d\ude00\/"})"),
            "a\xc3\xa4\xf0\x9f\x98\x80/");
  EXPECT_EQ(in_json(R"({"Model":"a"})"), "-model_not_named");
  EXPECT_EQ(in_json(R"(["model","a"])"), "-model_not_named");
  EXPECT_EQ(in_json(R"([{"model":"a"}])"), "-model_not_named");
  EXPECT_EQ(in_json(R"("model")"), "-model_not_named");
  EXPECT_EQ(in_json(R"({"mode":"l","x":"model"})"), "-model_not_named");
}

TEST(ModelInJson, NamedTwiceIsRefused) {
  EXPECT_EQ(in_json(R"({"model":"a","model":"a"})"), "-model_named_twice");
  EXPECT_EQ(in_json(R"({"model":"a","x":{},"mod\u0065l":"b"})"), "-model_named_twice");
  EXPECT_EQ(in_json(R"({"model":"a","x":{"model":"b"}})"), "a");
}

TEST(ModelInJson, ThatIsNoNameIsRefused) {
  for (const char* value :
       {"null", "1", "true", "[\"a\"]", "{\"a\":1}", "\"\\ud83d\"", "\"\\ude00\"",
        "\"\\ud83d\\u0041\"", "\"\\u0000\"", "\"a\\n\"", "\"\\u007f\""}) {
    EXPECT_EQ(in_json("{\"model\":"s + value + "}"), "-bad_model_name") << value;
  }
  EXPECT_EQ(in_json(R"({"model":""})"), "-model_not_named");
  EXPECT_EQ(in_json("{\"model\":\"" + std::string(255, 'a') + "\"}"), std::string(255, 'a'));
  EXPECT_EQ(in_json("{\"model\":\"" + std::string(256, 'a') + "\"}"), "-bad_model_name");
  EXPECT_EQ(in_json("{\"model\":\"" + std::string(1 << 20, 'a') + "\"}"), "-bad_model_name");
}

TEST(Json, ThatIsNoneIsRefused) {
  for (const std::string& body : {"x"s,
                                  "{"s,
                                  "}"s,
                                  "{\"model\":\"a\"}}"s,
                                  "{\"model\":\"a\"} {}"s,
                                  "{\"model\":\"a\"}\0"s,
                                  "{\"model\":\"a\",}"s,
                                  "{,}"s,
                                  "{\"model\" \"a\"}"s,
                                  "{\"model\":\"a\" \"b\":1}"s,
                                  "{model:\"a\"}"s,
                                  "{'model':'a'}"s,
                                  "{\"model\":\"a}"s,
                                  "{\"model\":\"\\x\"}"s,
                                  "{\"model\":\"\\u12\"}"s,
                                  "{\"model\":\"\\u12g4\"}"s,
                                  "{\"model\":\"\n\"}"s,
                                  "{\"model\":\"a\",\"b\":01}"s,
                                  "{\"model\":\"a\",\"b\":1.}"s,
                                  "{\"model\":\"a\",\"b\":.1}"s,
                                  "{\"model\":\"a\",\"b\":1e}"s,
                                  "{\"model\":\"a\",\"b\":+1}"s,
                                  "{\"model\":\"a\",\"b\":-}"s,
                                  "{\"model\":\"a\",\"b\":tru}"s,
                                  "{\"model\":\"a\",\"b\":NaN}"s,
                                  "{\"model\":\"a\",\"b\":[1,]}"s,
                                  "{\"model\":\"a\",\"b\":[1}}"s,
                                  "{\"model\":\"a\",\"b\":{\"c\":1]}"s,
                                  "{\"model\":\"a\",\"b\":\"\xff\"}"s,
                                  "{\"model\":\"a\",\"b\":\"\xc0\x80\"}"s,
                                  "{\"model\":\"a\",\"b\":\"\xed\xa0\x80\"}"s,
                                  "{\"model\":\"a\",\"b\":\"\xe4\"}"s,
                                  "// c\n{\"model\":\"a\"}"s,
                                  "\xef\xbb\xbf{\"model\":\"a\"}"s,
                                  "\xff\xfe{\0\"\0"s,
                                  "{\0\"\0m\0"s,
                                  "\0{\0\""s,
                                  "   "s,
                                  "{\"model\":\"a\",\"b\":\"\\"s,
                                  "{\"model\":\"a\",\"b\":\"\\u00"s}) {
    EXPECT_EQ(in_json(body), "-invalid_json") << body;
  }
}

TEST(Json, HasABoundedDepth) {
  const auto nested = [](std::size_t depth) {
    return "{\"model\":\"a\",\"b\":" + std::string(depth, '[') + std::string(depth, ']') + "}";
  };
  EXPECT_EQ(in_json(nested(kJsonDepthMax - 1)), "a");
  EXPECT_EQ(in_json(nested(kJsonDepthMax)), "-invalid_json");
  EXPECT_EQ(in_json(std::string(1 << 20, '[')), "-invalid_json");
}

// Each length and place, because eight bytes are looked at together.
TEST(Json, EndsItsStringsWhereverTheyStand) {
  for (std::size_t before = 0; before < 20; ++before) {
    for (const char* inside : {"", "\\\"", "\xc3\xa4", "\\u0041", " "}) {
      const std::string text = std::string(before, 'x') + inside + std::string(before / 2, 'y');
      EXPECT_EQ(in_json("{\"b\":\"" + text + "\",\"model\":\"a\"}"), "a") << text;
      EXPECT_EQ(in_json("{\"b\":\"" + text + "\x1f\",\"model\":\"a\"}"), "-invalid_json") << text;
      EXPECT_EQ(in_json("{\"b\":\"" + text + "\x80\",\"model\":\"a\"}"), "-invalid_json") << text;
    }
  }
}

TEST(ModelInJson, IsReplacedWhereItStands) {
  const std::string body = R"({ "x":1, "model" : "al\u0069as" ,"y":2})";
  const auto asked = ask("/v1/x", kJson, body);
  ASSERT_TRUE(asked);
  EXPECT_EQ(body.substr(asked->value_at, asked->value_bytes), R"("al\u0069as")");
  EXPECT_TRUE(asked->is_json_value);
  EXPECT_EQ(written_model(*asked, "a \"b\"\\\xc3\xa4"), "\"a \\\"b\\\"\\\\\xc3\xa4\"");
}

TEST(Streams, IsTrueOnlyWhereItIsSaidOnce) {
  const auto streams = [](const char* more) {
    const auto asked = ask("/v1/x", kJson, R"({"model":"a")"s + more + "}");
    return asked && asked->streams;
  };
  EXPECT_TRUE(streams(R"(,"stream":true)"));
  EXPECT_TRUE(streams(R"(,"str\u0065am": true )"));
  EXPECT_TRUE(streams(R"(,"stream":true,"x":{"stream":false})"));
  EXPECT_FALSE(streams(""));
  EXPECT_FALSE(streams(R"(,"stream":false)"));
  EXPECT_FALSE(streams(R"(,"stream":"true")"));
  EXPECT_FALSE(streams(R"(,"stream":[true])"));
  EXPECT_FALSE(streams(R"(,"stream":true,"stream":true)"));
  EXPECT_FALSE(streams(R"(,"x":{"stream":true})"));
}

TEST(Comments, GoBeforeStreamsOfTheThreeApis) {
  const auto takes = [](const std::string& line, bool is_streaming) {
    AskedModel asked;
    asked.streams = is_streaming;
    return takes_comments(request_of(line + " HTTP/1.1\nHost: a\n"), asked);
  };
  EXPECT_TRUE(takes("POST /v1/chat/completions", true));
  EXPECT_TRUE(takes("POST /m/a/v1/completions?x", true));
  EXPECT_TRUE(takes("POST /v1/responses", true));
  EXPECT_FALSE(takes("POST /v1/chat/completions", false));
  EXPECT_FALSE(takes("GET /v1/chat/completions", true));
  EXPECT_FALSE(takes("POST /v1/messages", true));
  EXPECT_FALSE(takes("POST /v1/x?/completions", true));
  EXPECT_FALSE(takes("POST /v1/xcompletions", true));
}

TEST(ModelInHead, IsOneSegmentOfThePathOrInTheQuery) {
  const auto in_head = [](const std::string& target) {
    const auto named = model_in_head(post(target), kSame);
    if (!named) return "-" + named.error().code;
    return named->model.value_or("") + (named->by_path ? " by path " : " ") + named->target;
  };
  EXPECT_EQ(in_head("/m/a/v1/x?y"), "a by path /v1/x?y");
  EXPECT_EQ(in_head("/m/Qwen%2FQwen3%20b+c/v1"), "Qwen/Qwen3 b+c by path /v1");
  EXPECT_EQ(in_head("/m/a"), "a by path /");
  EXPECT_EQ(in_head("/m/a?b"), "a by path /?b");
  EXPECT_EQ(in_head("/m/a//b"), "a by path //b");
  EXPECT_EQ(in_head("/m/a/m/b"), "a by path /m/b");
  EXPECT_EQ(in_head("/m"), " /m");
  EXPECT_EQ(in_head("/mm/a"), " /mm/a");
  EXPECT_EQ(in_head("/m/"), "-model_not_named");
  EXPECT_EQ(in_head("/m//a"), "-model_not_named");
  EXPECT_EQ(in_head("/m/%zz/a"), "-bad_model_name");
  EXPECT_EQ(in_head("/m/%f/a"), "-bad_model_name");
  EXPECT_EQ(in_head("/m/%00/a"), "-bad_model_name");
  EXPECT_EQ(in_head("/m/%ff/a"), "-bad_model_name");
  EXPECT_EQ(in_head("/v1?x=1&model=a+b%2fc&y"), "a b/c /v1?x=1&model=a+b%2fc&y");
  EXPECT_EQ(in_head("/v1?mod%65l=a"), "a /v1?mod%65l=a");
  EXPECT_EQ(in_head("/v1?%zz&xmodel=b"), " /v1?%zz&xmodel=b");
  EXPECT_EQ(in_head("/v1?model=a&model=a"), "-model_named_twice");
  EXPECT_EQ(in_head("/v1?model=a&mod%65l=b"), "-model_named_twice");
  EXPECT_EQ(in_head("/v1?model="), "-model_not_named");
  EXPECT_EQ(in_head("/v1?model"), "-model_not_named");
  EXPECT_EQ(in_head("/v1?model=%z"), "-bad_model_name");
  EXPECT_EQ(in_head("/m/a/v1?model=a"), "a by path /v1?model=a");
  EXPECT_EQ(in_head("/m/a/v1?model=b"), "-model_named_twice");
}

TEST(Model, IsNamedAlikeInAllPlaces) {
  EXPECT_EQ(name("/m/a/v1", kJson, R"({"model":"a"})"), "a");
  EXPECT_EQ(name("/m/a/v1", kJson, R"({"model":"b"})"), "-model_named_twice");
  EXPECT_EQ(name("/v1?model=a", kJson, R"({"model":"b"})"), "-model_named_twice");
  EXPECT_EQ(name("/m/a/v1", kJson, R"({"x":1})"), "a");
  EXPECT_EQ(name("/m/a/v1", kJson, ""), "a");
  EXPECT_EQ(name("/m/a/v1", kJson, "{"), "-invalid_json");
  EXPECT_EQ(name("/v1", "", ""), "-model_not_named");
  EXPECT_EQ(ask("/m/a/v1", kJson, R"({"x":1})")->value_bytes, 0u);
}

TEST(Model, MayBeNamedByItsAliasInOnePlaceAndByItsNameInAnother) {
  EXPECT_EQ(name("/m/alias/x", kJson, R"({"model":"a"})"), "a");
  EXPECT_EQ(name("/x?model=a", kJson, R"({"model":"alias"})"), "alias");
  EXPECT_EQ(name("/m/a/x?model=alias", kJson, ""), "a");
  EXPECT_EQ(name("/m/b/x", kJson, R"({"model":"alias"})"), "-model_named_twice");
}

TEST(ModelInQuery, IsReplacedWhereItStands) {
  const auto written = [](const std::string& target) {
    return written_target(*model_in_head(post(target), kSame), "new/b");
  };
  EXPECT_EQ(written("/x?a=1&model=a&b=2"), "/x?a=1&model=new%2Fb&b=2");
  EXPECT_EQ(written("/m/a/x?model=al%69as"), "/x?model=new%2Fb");
  EXPECT_EQ(written("/x?model=new/b"), "/x?model=new/b") << "it stands there already";
  EXPECT_EQ(written("/x?y=a"), "/x?y=a");
}

TEST(Body, OfAnotherTypeIsJsonWhereItBeginsLikeIt) {
  const std::string curl = "Content-Type: application/x-www-form-urlencoded\n";
  EXPECT_EQ(name("/v1", curl, R"({"model":"a"})"), "a");
  EXPECT_EQ(name("/v1", "", " {\"model\":\"a\"}"), "a");
  EXPECT_EQ(name("/v1", "Content-Type: application/x+json; charset=utf-8\n", R"({"model":"a"})"),
            "a");
  EXPECT_EQ(name("/v1", "Content-Type: \"\n", R"({"model":"a"})"), "a");
  EXPECT_EQ(name("/v1", curl, "\xef\xbb\xbf{\"model\":\"a\"}"), "-invalid_json");
  EXPECT_EQ(name("/v1", "", "{\0\"\0"s), "-invalid_json");
  EXPECT_EQ(name("/v1", curl, "model=a"), "-model_not_named");
  EXPECT_EQ(name("/m/a/v1", curl, "model=b"), "a");
  EXPECT_EQ(name("/m/a/v1", curl, "{no json"), "a");
  EXPECT_EQ(name("/m/a/v1", curl, R"({"model":"b"})"), "-model_named_twice");
  EXPECT_EQ(name("/m/a/v1", curl, R"({"model":"a","model":"a"})"), "-model_named_twice");
  EXPECT_EQ(name("/v1", kJson + curl, R"({"model":"a"})"), "-bad_request");
}

TEST(Body, ThatIsCodedNeedsANameInTheHead) {
  const std::string gzip = kJson + "Content-Encoding: gzip\n"s;
  EXPECT_EQ(name("/v1", gzip, "\x1f\x8b"), "-coded_body");
  EXPECT_EQ(name("/v1", kJson + "Content-Encoding: identity\nContent-Encoding: x\n"s, "{}"),
            "-coded_body");
  EXPECT_EQ(name("/m/a/v1", gzip, "\x1f\x8b"), "a");
  EXPECT_EQ(name("/v1?model=a", gzip, "\x1f\x8b"), "a");
  EXPECT_EQ(name("/v1", kJson + "Content-Encoding: Identity\n"s, R"({"model":"a"})"), "a");
}

std::string part(const std::string& head, const std::string& value) {
  return "--b\r\n" + head + "\r\n\r\n" + value + "\r\n";
}
std::string in_form(const std::string& body,
                    const std::string& type = "multipart/form-data; boundary=b") {
  return name("/v1", "Content-Type: " + type + "\n", body);
}
const std::string kModelPart = part("Content-Disposition: form-data; name=\"model\"", "a");

TEST(ModelInForm, IsTheFieldThatIsNoFile) {
  const std::string file = part(
      "Content-Disposition: form-data; name=\"file\"; filename=\"x;name=model\"\r\nContent-Type: "
      "a/b",
      "\r\n--a\r\n-b\r\n\r\n");
  EXPECT_EQ(in_form(kModelPart + "--b--"), "a");
  EXPECT_EQ(in_form("preamble\r\n" + file + kModelPart + "--b--\r\nepilogue--b\r\n"), "a");
  EXPECT_EQ(in_form(kModelPart + "--b--", "Multipart/Form-Data; x=y; Boundary=\"b\""), "a");
  EXPECT_EQ(in_form(part("content-disposition:FORM-DATA;NAME=model", "c d") + "--b--"), "c d");
  EXPECT_EQ(in_form("--b  \r\n\r\n\r\n" + kModelPart + "--b--"), "a");
  for (const char* other :
       {"Content-Disposition: form-data; name=\"model\"; filename=\"m\"",
        "Content-Disposition: form-data; name=model; filename*=utf-8''m",
        "Content-Disposition: form-data; name=\"Model\"", "Content-Disposition: form-data",
        "Content-Disposition: attachment; name=\"model\"", "Content-Type: a/b; name=model"}) {
    EXPECT_EQ(in_form(part(other, "x") + "--b--"), "-model_not_named") << other;
    EXPECT_EQ(in_form(part(other, "x") + kModelPart + "--b--"), "a") << other;
  }
  const auto asked =
      ask("/v1", "Content-Type: multipart/form-data; boundary=b\n", file + kModelPart + "--b--");
  ASSERT_TRUE(asked);
  EXPECT_EQ((file + kModelPart).substr(asked->value_at, asked->value_bytes), "a");
  EXPECT_EQ(written_model(*asked, "b \"c\""), "b \"c\"");
}

TEST(ModelInForm, ThatOthersMayReadDifferentlyIsRefused) {
  EXPECT_EQ(in_form(kModelPart + kModelPart + "--b--"), "-model_named_twice");
  EXPECT_EQ(
      name("/m/x/v1", "Content-Type: multipart/form-data; boundary=b\n", kModelPart + "--b--"),
      "-model_named_twice");
  EXPECT_EQ(in_form(part("Content-Disposition: form-data; name=model", "") + "--b--"),
            "-model_not_named");
  for (const std::string& body :
       {kModelPart, kModelPart + "--b", ""s + "x", "--bc\r\n\r\n--bc--"s,
        "--b\r\nContent-Disposition: form-data; name=model\r\n"s,
        part("Content-Disposition : form-data; name=model", "a") + "--b--",
        part("Content-Disposition: form-data;\r\n name=model", "a") + "--b--",
        part("Content-Disposition: form-data; name=model\nX: y", "a") + "--b--",
        part("Content-Disposition: form-data; name=\"model", "a") + "--b--",
        part("Content-Disposition: form-data; name=model; name=x", "a") + "--b--",
        part("Content-Disposition: form-data; name=\"model\"x", "a") + "--b--",
        part("Content-Disposition: form-data\r\nContent-Disposition: form-data", "a") + "--b--",
        part("Content-Transfer-Encoding: base64", "a") + "--b--",
        part("X: " + std::string(8 * 1024, 'a'), "a") + "--b--"}) {
    EXPECT_EQ(in_form(body), "-invalid_form") << body;
  }
  for (const char* type : {"", "; boundary=", "; boundary=\"\"", "; boundary=b; boundary=b"}) {
    EXPECT_EQ(in_form(kModelPart + "--b--", "multipart/form-data"s + type), "-invalid_form");
  }
  EXPECT_EQ(in_form(kModelPart + "--b--", "multipart/form-data; boundary=\"b"), "-bad_request");
  EXPECT_EQ(in_form(kModelPart, "multipart/form-data; boundary=" + std::string(71, 'b')),
            "-invalid_form");
}

// One pass: a scan that begins again at every part or bracket would not come to its end.
TEST(Body, OfManyMegabytesIsReadInOnePass) {
  std::string json = R"({"messages":[{"image":")";
  json.append(8 << 20, 'A');
  json += R"("}],"x":[)";
  for (int i = 0; i < 300'000; ++i) json += "{},";
  json += R"(0],"model":"a"})";
  EXPECT_EQ(in_json(json), "a");
  std::string form;
  for (int i = 0; i < 50'000; ++i) form += "--b\r\n\r\n\r\n\r\n";
  EXPECT_EQ(in_form(form + kModelPart + "--b--"), "a");
  EXPECT_EQ(in_form(form + form + form + kModelPart + "--b--"), "-invalid_form");  // too many
  EXPECT_EQ(in_form("--b\r\n\r\n" + std::string(8 << 20, '\r')), "-invalid_form");
}

}  // namespace
}  // namespace modelpool::serve
