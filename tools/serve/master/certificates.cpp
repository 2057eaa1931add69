#include "master/certificates.hpp"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <spdlog/fmt/chrono.h>
#include <spdlog/spdlog.h>

#include <ctime>
#include <memory>
#include <set>
#include <utility>
#include <vector>

namespace modelpool::serve {
namespace {

constexpr std::time_t kSoon_s = 14 * 24 * 60 * 60;

struct Certificate {
  std::string file;
  std::string subject;
  bool is_of_clients = false;  // their authority's
  std::time_t from_s = 0;
  std::time_t until_s = 0;
};

template <auto kFree>
struct Freed {
  template <class T>
  void operator()(T* object) const {
    kFree(object);
  }
};

// False: it is no time.
bool read_time(const ASN1_TIME* time, std::time_t& seconds) {
  std::tm date{};
  if (ASN1_TIME_to_tm(time, &date) != 1) return false;
  seconds = timegm(&date);
  return true;
}

// A file has one or a chain of them.
void read_file(const std::string& file, bool is_of_clients, std::vector<Certificate>& found) {
  const std::unique_ptr<BIO, Freed<BIO_free>> input(BIO_new_file(file.c_str(), "r"));
  while (input) {
    const std::unique_ptr<X509, Freed<X509_free>> read(
        PEM_read_bio_X509_AUX(input.get(), nullptr, nullptr, nullptr));
    if (!read) break;
    Certificate one;
    one.file = file;
    one.is_of_clients = is_of_clients;
    char subject[256];
    one.subject = X509_NAME_oneline(X509_get_subject_name(read.get()), subject, sizeof subject);
    if (read_time(X509_get0_notBefore(read.get()), one.from_s) &&
        read_time(X509_get0_notAfter(read.get()), one.until_s))
      found.push_back(std::move(one));
  }
  ERR_clear_error();  // that of the file's end
}

std::vector<Certificate> certificates_of(const config::Door& door) {
  std::set<std::pair<std::string, bool>> files;
  for (const config::Listener& listener : door.serve.listeners) {
    if (!listener.tls_cert.empty()) files.emplace(listener.tls_cert, false);
    if (!listener.tls_client_ca.empty()) files.emplace(listener.tls_client_ca, true);
  }
  std::vector<Certificate> found;
  for (const auto& [file, is_of_clients] : files) read_file(file, is_of_clients, found);
  return found;
}

std::string date(std::time_t seconds) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(seconds));
}

bool is_valid(const Certificate& one, std::time_t now_s) {
  return one.from_s <= now_s && now_s <= one.until_s;
}

std::string validity(const Certificate& one, std::time_t now_s) {
  if (now_s < one.from_s) return "is not valid before " + date(one.from_s);
  if (now_s > one.until_s) return "expired at " + date(one.until_s);
  return "is valid until " + date(one.until_s);
}

}  // namespace

std::string certificates_text(const config::Door& door) {
  const std::vector<Certificate> all = certificates_of(door);
  const std::time_t now_s = std::time(nullptr);
  std::string text = all.empty() ? "" : "certificates\n";
  for (const Certificate& one : all)
    text += "  " + one.file + ": " + one.subject + " " + validity(one, now_s) + "\n";
  return text;
}

void warn_of_certificates(const config::Door& door) {
  const std::time_t now_s = std::time(nullptr);
  for (const Certificate& one : certificates_of(door)) {
    if (is_valid(one, now_s) && one.until_s - now_s > kSoon_s) continue;
    const char* const effect = is_valid(one, now_s) ? ""
                               : one.is_of_clients ? ", and clients that it vouches for are refused"
                                                   : ", and clients that check it refuse it";
    spdlog::warn("the certificate {} in {} {}{}; replace it, and send SIGHUP", one.subject,
                 one.file, validity(one, now_s), effect);
  }
}

}  // namespace modelpool::serve
