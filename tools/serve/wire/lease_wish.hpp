// What POST /api/pool/leases asks for: a lease on a model of the config, or a place and bytes for a
// tenant, a program that the pool cannot see.
//
// A lease with an id is found again by it, through any worker: a mark at the end of its tag, and in
// the label of a tenant's place, says which lease it is, and whose.
//
// Safety: pure functions of bytes that a stranger sent.
//
// Errors: 400 with the key that is wrong, 415.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "modelpool/pool.hpp"
#include "wire/message.hpp"

namespace modelpool::serve {

inline constexpr std::string_view kLeasesPath = "/api/pool/leases";
inline constexpr std::size_t kLeaseWishMax_bytes = 64 * 1024;
inline constexpr std::size_t kTagMax_bytes = 31;  // as the pool has it

struct LeaseWish {
  std::string name;  // of the model, or the tenant
  bool is_tenant = false;
  TenantNeed need;
  std::optional<std::chrono::nanoseconds> timeout;  // max(): without end; none: queue_timeout
  std::string tag;
  std::string id;  // empty: none
};
Checked<> check_wish_head(const http::header<true>& head);
Checked<LeaseWish> read_lease_wish(std::string_view body);

// 20 hex digits behind a '#'. `owner`: whoever may have it again, a key or a kind of client.
std::string lease_mark(const LeaseWish& wish, std::string_view owner);
// The tag, cut so that the mark has room. Without a mark: cut so that it does not end as one, for
// what has another's mark passes for its successor.
std::string marked_tag(std::string_view tag, std::string_view mark);
// What a tag or label ends with; empty: no mark.
std::string_view mark_of(std::string_view text);
// Are both of one lease, whosever?
bool is_same_lease(std::string_view mark, std::string_view other);

}  // namespace modelpool::serve
