// A request as it was received: what its exchange with a backend needs of it.
//
// Safety: the loop's thread; all of it is the connection's, which waits for the exchange.
//
// Errors: none.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "config/door.hpp"
#include "wire/asked_model.hpp"
#include "wire/message.hpp"
#include "wire/tokens.hpp"
#include "worker/body.hpp"
#include "worker/io.hpp"

namespace modelpool::serve {

struct Asked {
  RequestReader& reader;
  NamedByHead named;
  AskedModel asked;
  std::shared_ptr<const config::Model> model;
  Body& body;
  std::string id;
  std::string client;  // its address; empty: a Unix socket
  bool client_is_trusted = false;
  bool key_was_ours = false;
  std::vector<std::pair<std::string, std::string>> fields;  // of every answer to it
  TimePoint began = Clock::now();

  // The one other protocol that goes through; h2c would carry requests that nobody looked at.
  bool wants_websocket() const {
    return reader.head().method() == http::verb::get && same_word(reader.upgrade(), "websocket");
  }
};

}  // namespace modelpool::serve
