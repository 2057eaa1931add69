"""Why the compiled part of the package cannot be imported."""

import glob
import importlib.machinery
import os
import sys


def why_missing():
    """What to tell where there is none for this interpreter; "" where there is one."""
    stem = os.path.join(os.path.dirname(__file__), "_modelpool")
    if any(os.path.exists(stem + end) for end in importlib.machinery.EXTENSION_SUFFIXES):
        return ""
    found = ", ".join(sorted(map(os.path.basename, glob.glob(stem + ".*.so"))))
    unable = "unable to import modelpool: "
    if not found:
        folder = os.path.dirname(__file__)
        return unable + "its compiled part is not in %s; build and install it" % folder
    this = "%s %d.%d" % ((sys.implementation.name,) + tuple(sys.version_info[:2]))
    return unable + (
        "it was built for another Python (%s), this is %s; run it with that one, or build it for this"
        " one" % (found, this)
    )
