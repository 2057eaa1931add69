// What ps shows of this process.
//
// Safety: one thread; keep_title_space once, first of all, with the arguments of main.
//
// Errors: none; a title is cut to the room that the arguments had.
#pragma once

namespace modelpool::serve {

void keep_title_space(int argc, char** argv);

// "poolserve: worker"; its name for top and the kernel is what stands before the colon.
void set_title(const char* title);

}  // namespace modelpool::serve
