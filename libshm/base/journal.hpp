// systemd's journal on the other end of stderr: it takes "<3>" to "<7>" at the start of a line as
// the line's priority (sd-daemon(3)), and nobody else does.
//
// Safety: reads JOURNAL_STREAM and calls fstat(2); otherwise pure.
//
// Errors: none.
#pragma once

#include <string>
#include <string_view>

namespace modelpool {

// Does JOURNAL_STREAM name what stderr is now? It is inherited; stderr may have been redirected.
bool stderr_is_journal();

// The text with `prefix` before each of its lines.
std::string prefix_lines(std::string_view prefix, std::string_view text);

}  // namespace modelpool
