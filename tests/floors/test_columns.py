#!/usr/bin/env python3
"""tools/lib/columns.py finds long comments and prose, and nothing else."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tools/lib"))
import columns  # noqa: E402

WORDS = "word " * 25


def found(name, text):
    return sorted(columns.too_long(pathlib.Path(name), text))


class Columns(unittest.TestCase):
    def test_a_comment_is_found_in_each_language(self):
        self.assertEqual(found("a.cpp", f"int a;\n  // {WORDS}\nint b;  // {WORDS}\n"), [2, 3])
        self.assertEqual(found("a.h", f"/* {WORDS}\n * {WORDS}\n */\n"), [1, 2])
        self.assertEqual(found("a.py", f"a = 1  # {WORDS}\n"), [1])
        self.assertEqual(found("tools/check", f"# {WORDS}\n"), [1])
        self.assertEqual(found("CMakeLists.txt", f"# {WORDS}\n"), [1])

    def test_prose_is_found_but_no_table_and_no_block(self):
        self.assertEqual(found("a.md", f"{WORDS}\n| {WORDS} |\n```sh\n{WORDS}\n```\n- {WORDS}\n"), [1, 6])

    def test_code_is_for_others(self):
        self.assertEqual(found("a.cpp", f'const char* a = "{WORDS}";\n'), [])
        self.assertEqual(found("a.py", f'a = "{WORDS}"\n'), [])

    def test_an_address_stays_whole(self):
        self.assertEqual(found("a.md", f"https://example.com/{'a' * 100}\n"), [])
        self.assertEqual(found("a.cpp", f"// https://example.com/{'a' * 100}\n"), [])

    def test_100_columns_are_fine(self):
        self.assertEqual(found("a.cpp", "// " + "a" * 97 + "\n"), [])
        self.assertEqual(found("a.cpp", "// " + "a" * 98 + "\n"), [1])


if __name__ == "__main__":
    unittest.main()
