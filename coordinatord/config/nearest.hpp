// For the programs that stand on this floor: how near two names are.
//
// Safety: pure functions.
//
// Errors: none.
#pragma once

#include "base/nearest.hpp"
