// systemd's journal. On the other end of stderr it takes "<3>" to "<7>" at the start of a line as
// the line's priority (sd-daemon(3)), and nobody else does. At its socket it takes an entry with
// fields (https://systemd.io/JOURNAL_NATIVE_PROTOCOL).
//
// Safety: any thread; never waits: sd_journal_sendv(3) would, for a journal that hangs.
//
// Errors: false where the journal takes nothing.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace modelpool {

// Does JOURNAL_STREAM name what stderr is now? It is inherited; stderr may have been redirected.
bool stderr_is_journal();

// The text with `prefix` before each of its lines.
std::string prefix_lines(std::string_view prefix, std::string_view text);

using JournalFields = std::vector<std::pair<std::string, std::string>>;

// Names are upper case; values are any bytes.
std::string journal_entry(const JournalFields& fields);
bool send_to_journal(std::string_view entry);

}  // namespace modelpool
