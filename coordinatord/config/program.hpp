// For main() of a program that stands on this floor: run_program, and how a message begins where
// the journal reads it.
//
// Safety: as those headers.
//
// Errors: none.
#pragma once

#include "base/journal.hpp"
#include "base/program.hpp"
