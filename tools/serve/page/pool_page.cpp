#include "page/pool_page.hpp"

#include <openssl/evp.h>

#include <array>
#include <string>
#include <string_view>

#include "page/pool_html.hpp"
#include "wire/access.hpp"

namespace modelpool::serve {
namespace {

// What stands between <tag> and </tag>.
std::string_view inside(std::string_view html, const std::string& tag) {
  const std::size_t begin = html.find("<" + tag + ">") + tag.size() + 2;
  return html.substr(begin, html.find("</" + tag + ">", begin) - begin);
}

// As a policy names the one text that may run. Without OpenSSL's SHA-256: none may.
std::string source_of(std::string_view text) {
  const auto digest = sha256_of(text);
  if (!digest) return "'none'";
  std::array<unsigned char, 4 * ((sizeof(Sha256) + 2) / 3) + 1> base64{};
  EVP_EncodeBlock(base64.data(), digest->data(), static_cast<int>(digest->size()));
  return std::string("'sha256-").append(base64.begin(), base64.end() - 1) + "'";
}

// Nothing but its own script and style, and this door; nobody frames it, and no text becomes HTML.
std::string policy_for(std::string_view html) {
  return "default-src 'none'; script-src " + source_of(inside(html, "script")) + "; style-src " +
         source_of(inside(html, "style")) +
         "; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
         "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
}

}  // namespace

OwnAnswer pool_page() {
  static const std::string policy = policy_for(kPoolHtml);
  OwnAnswer answer;
  answer.content_type = "text/html; charset=utf-8";
  answer.body = kPoolHtml;
  answer.fields = {{"Content-Security-Policy", policy},
                   {"X-Content-Type-Options", "nosniff"},
                   {"Referrer-Policy", "no-referrer"},
                   {"Cache-Control", "no-cache"}};  // an upgraded program has another
  return answer;
}

}  // namespace modelpool::serve
