#!/usr/bin/env python3
"""check_includes.py finds what it is there to find."""

import pathlib
import tempfile
import unittest

import check_includes


class Findings(unittest.TestCase):
    def findings(self, files):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder).resolve()
            for name, text in files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
            return check_includes.check(root)[0]

    def one(self, files, text):
        found = self.findings(files)
        self.assertEqual(len(found), 1, found)
        self.assertIn(text, found[0])

    def test_down_is_fine(self):
        self.assertEqual(self.findings({
            "libshm/base/text.hpp": "#include <string>\n",
            "libshm/include/modelpool/result.hpp": "#include <string>\n",
            "libshm/include/modelpool/pool.hpp": '#include "modelpool/result.hpp"\n',
            "libshm/segment/words.hpp": '#include "base/text.hpp"\n',
            "libshm/segment/words.cpp": '#include "segment/words.hpp"\n',
            "coordinatord/loop.cpp": '#include "modelpool/pool.hpp"\n',
        }), [])

    def test_up_is_found(self):
        self.one({"libshm/base/text.hpp": '#include "segment/words.hpp"\n',
                  "libshm/segment/words.hpp": ""},
                 "libshm/base/text.hpp: includes segment/words.hpp")

    def test_up_to_a_public_header_is_found(self):
        self.one({"libshm/policy/rules.cpp": "#include <modelpool/pool.hpp>\n",
                  "libshm/include/modelpool/pool.hpp": ""},
                 "libshm/policy/rules.cpp: includes modelpool/pool.hpp")

    def test_a_public_header_that_includes_a_private_one_is_found(self):
        self.one({"libshm/include/modelpool/pool.hpp": '#include "base/text.hpp"\n',
                  "libshm/base/text.hpp": ""},
                 "libshm/include/modelpool/pool.hpp: includes base/text.hpp")

    def test_the_library_includes_no_program(self):
        self.one({"libshm/bindings/c/api.cpp": '#include "loop.hpp"\n',
                  "coordinatord/loop.hpp": ""}, "includes loop.hpp")

    def test_a_program_includes_no_other(self):
        self.one({"tools/poolctl/list.cpp": '#include "loop.hpp"\n',
                  "coordinatord/loop.hpp": ""}, "includes loop.hpp")

    def test_both_programs_include_the_judge(self):
        judge = {"coordinatord/judge/decide.hpp": '#include "policy/rules.hpp"\n',
                 "libshm/policy/rules.hpp": ""}
        for program in ("coordinatord/loop.cpp", "tools/poolctl/explain.cpp"):
            self.assertEqual(
                self.findings({**judge, program: '#include "judge/decide.hpp"\n'}), [])

    def test_the_judge_includes_no_program(self):
        self.one({"coordinatord/judge/decide.cpp": '#include "loop.hpp"\n',
                  "coordinatord/loop.hpp": ""}, "coordinatord/judge/decide.cpp: includes loop.hpp")

    def test_the_library_does_not_include_the_judge(self):
        self.one({"libshm/json/row_json.cpp": '#include "judge/decide.hpp"\n',
                  "coordinatord/judge/decide.hpp": ""}, "includes judge/decide.hpp")

    def test_the_judge_and_the_config_stand_beside_each_other(self):
        self.one({"coordinatord/judge/decide.cpp": '#include "config/pool_file.hpp"\n',
                  "coordinatord/config/pool_file.hpp": ""},
                 "coordinatord/judge/decide.cpp: includes config/pool_file.hpp")
        self.one({"coordinatord/config/door.hpp": '#include "loop.hpp"\n',
                  "coordinatord/loop.hpp": ""}, "coordinatord/config/door.hpp: includes loop.hpp")
        self.assertEqual(self.findings({
            "coordinatord/config/door.hpp": "",
            "coordinatord/config/pool_file.hpp": '#include "config/door.hpp"\n',
            "tools/serve/worker.hpp": '#include "config/pool_file.hpp"\n',
        }), [])

    def test_poolserve_is_held_to_public_headers(self):
        public = {"libshm/include/modelpool/pool.hpp": "", "libshm/base/text.hpp": "",
                  "tools/serve/wire/heads.hpp": '#include "wire/message.hpp"\n',
                  "tools/serve/wire/message.hpp": "#include <modelpool/pool.hpp>\n"}
        self.assertEqual(self.findings(public), [])
        self.one({**public, "tools/serve/main.cpp": '#include "base/text.hpp"\n'},
                 "tools/serve/main.cpp: includes base/text.hpp, which applications do not have")

    def test_a_circle_is_found(self):
        self.one({"coordinatord/a.hpp": '#include "b.hpp"\n', "coordinatord/b.hpp": "",
                  "coordinatord/b.cpp": '#include "a.hpp"\n'},
                 "coordinatord/a -> coordinatord/b -> coordinatord/a")

    def test_a_file_on_no_floor_is_found(self):
        self.one({"libshm/src/text.cpp": ""}, "libshm/src/text.cpp: on no floor")

    def test_a_header_that_is_not_there_is_found(self):
        self.one({"libshm/base/text.cpp": '#include "base/gone.hpp"\n'}, '"base/gone.hpp" is no file')


if __name__ == "__main__":
    unittest.main()
