"""What is promised in text: examples run, stubs match, files are where a type checker looks."""

import ast
import builtins
import doctest
import inspect
import os
import pathlib
import pydoc
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest

import modelpool
import modelpool.testing
from modelpool import _modelpool
from support import POOLCTL, PoolTest, eventually

PACKAGE = pathlib.Path(modelpool.__file__).parent


class Examples(PoolTest):
    def docstrings(self):
        """(name, docstring) of the package and of every public class, method and function."""
        yield "modelpool", modelpool.__doc__
        yield "modelpool.testing", modelpool.testing.__doc__
        for name in modelpool.__all__:
            thing = getattr(modelpool, name)
            yield name, thing.__doc__
            if not inspect.isclass(thing) or issubclass(thing, Exception):
                continue
            for attribute in dir(thing):
                if not attribute.startswith("_"):
                    yield f"{name}.{attribute}", inspect.getdoc(getattr(thing, attribute))

    def test_every_public_name_has_a_docstring(self):
        self.assertEqual([name for name, text in self.docstrings() if not text], [])

    def test_the_examples_run_as_they_are_written(self):
        import asyncio

        run = 0
        self.load_external("llama").release()
        for name, text in self.docstrings():
            names = {
                "asyncio": asyncio,
                "modelpool": modelpool,
                "pool": self.pool,
                "pool_dir": self.dir,
                "load_llama": lambda ticket: ticket.ready("127.0.0.1:4321", external=True),
            }
            test = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
            report = []
            results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(
                test, out=report.append
            )
            self.assertEqual(results.failed, 0, "".join(report))
            run += results.attempted
        self.assertGreater(run, 20)


def members(body):
    """{name: node} of a stub's classes and functions; a property's getter stands for it."""
    found = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.setdefault(node.name, node)
        elif isinstance(node, ast.AnnAssign):
            found[node.target.id] = node
    return found


def signature_of(node):
    """(name, kind, default) of each parameter of a function in a stub."""
    kinds = inspect.Parameter
    arguments = node.args
    plain = [(a.arg, kinds.POSITIONAL_OR_KEYWORD) for a in arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + arguments.defaults
    parameters = [(*p, d) for p, d in zip(plain, defaults)]
    if arguments.vararg:
        parameters.append((arguments.vararg.arg, kinds.VAR_POSITIONAL, None))
    parameters += [
        (a.arg, kinds.KEYWORD_ONLY, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults)
    ]
    if arguments.kwarg:
        parameters.append((arguments.kwarg.arg, kinds.VAR_KEYWORD, None))
    return [
        (name, kind, kinds.empty if default is None else ast.literal_eval(default))
        for name, kind, default in parameters
    ]


def runtime_signature(function):
    parameters = inspect.signature(function).parameters.values()
    plain = inspect.Parameter.POSITIONAL_OR_KEYWORD
    only = inspect.Parameter.POSITIONAL_ONLY  # what C calls `$self, /`
    return [(p.name, plain if p.kind == only else p.kind, p.default) for p in parameters]


class Help(unittest.TestCase):
    def test_it_does_not_begin_with_pages_of_exceptions(self):
        text = pydoc.plain(pydoc.render_doc(modelpool))
        classes = re.findall(r"^    class (\w+)\(", text, re.MULTILINE)
        self.assertEqual(classes, ["Lease", "LoadTicket", "Pool"])
        self.assertLess(text.count("\n"), 500)
        # But it says which there are, and where they are explained.
        for name in modelpool.errors.__all__:
            self.assertIn(name, modelpool.__doc__)
            self.assertIs(getattr(modelpool, name), getattr(modelpool.errors, name))
        self.assertIn("class CoolingDown", pydoc.plain(pydoc.render_doc(modelpool.errors)))

    def test_a_ticket_says_what_it_is(self):
        with modelpool.testing.pool() as pool:
            ticket = pool.acquire("llama")
            self.assertEqual(repr(ticket), '<modelpool.LoadTicket for "llama", nothing started>')
            ticket.spawn(["sleep", "60"])
            self.assertEqual(repr(ticket), f'<modelpool.LoadTicket for "llama", pid {ticket.pid}>')
            ticket.fail("the test is over")
            self.assertEqual(repr(ticket), "<modelpool.LoadTicket used up>")


class BuiltForAnother(unittest.TestCase):
    """It said "partially initialized module ... (most likely due to a circular import)"."""

    def why(self, compiled):
        with tempfile.TemporaryDirectory() as place:
            copy = pathlib.Path(place, "modelpool")
            shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
            if compiled:
                (copy / compiled).write_bytes(b"")
            done = subprocess.run(
                [sys.executable, "-c", "import modelpool"],
                env={**os.environ, "PYTHONPATH": place},
                stderr=subprocess.PIPE,
                text=True,
            )
        self.assertEqual(done.returncode, 1)
        self.assertNotIn("circular", done.stderr)
        return done.stderr.splitlines()[-1]

    def test_it_names_the_python_it_was_built_for(self):
        other = "_modelpool.cpython-39-x86_64-linux-gnu.so"
        said = self.why(other)
        self.assertIn("ImportError: unable to import modelpool: it was built for another", said)
        self.assertIn(other, said)
        self.assertIn(f"this is cpython {sys.version_info[0]}.{sys.version_info[1]};", said)

    def test_it_says_that_it_was_not_built(self):
        self.assertIn("its compiled part is not in", self.why(None))

    def test_another_failure_is_told_as_it_is(self):
        mine = pathlib.Path(_modelpool.__file__).name
        self.assertIn("file too short", self.why(mine))


class Readme(unittest.TestCase):
    README = pathlib.Path(__file__).parents[2] / "README.md"

    def test_its_example_uses_nothing_that_it_does_not_define(self):
        blocks = re.findall(r"```python\n(.*?)```", self.README.read_text(), re.DOTALL)
        self.assertTrue(blocks)
        for block in blocks:
            nodes = list(ast.walk(ast.parse(block)))
            known = set(dir(builtins))
            names = [node for node in nodes if isinstance(node, ast.Name)]
            known |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
            known |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
            known |= {node.arg for node in nodes if isinstance(node, ast.arg)}
            imports = [node for node in nodes if isinstance(node, ast.Import)]
            known |= {alias.name.split(".")[0] for node in imports for alias in node.names}
            self.assertEqual({name.id for name in names} - known, set())
            for node in nodes:
                if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "modelpool":
                    self.assertTrue(hasattr(modelpool, node.attr), node.attr)


class Stubs(unittest.TestCase):
    stub = members(ast.parse((PACKAGE / "_modelpool.pyi").read_text()).body)

    def names(self, thing):
        ignored = {"__module__", "__doc__", "__new__", "__dict__", "__weakref__", "__reduce__"}
        # pybind11 2.13 and later adds one of its own.
        return {name for name in vars(thing)
                if name not in ignored and not name.startswith("_pybind11_")}

    def test_name_what_the_extension_has(self):
        hidden = {"__name__", "__package__", "__loader__", "__spec__", "__file__"}
        self.assertEqual(set(self.stub), self.names(_modelpool) - hidden)

    def test_classes_have_the_members_they_name(self):
        for name, node in self.stub.items():
            if not isinstance(node, ast.ClassDef):
                continue
            runtime = getattr(_modelpool, name)
            bases = [base.id for base in node.bases]
            if bases:
                self.assertEqual([b.__name__ for b in runtime.__bases__], bases)
                for attribute in members(node.body):
                    self.assertIn(attribute, vars(runtime))
                continue
            optional = {"__init__", "__repr__"}
            self.assertEqual(
                set(members(node.body)) - optional, self.names(runtime) - optional, name
            )

    def test_signatures_are_those_of_the_extension(self):
        compared = 0
        for class_name, node in self.stub.items():
            if not isinstance(node, ast.ClassDef):
                continue
            for name, method in members(node.body).items():
                runtime = getattr(getattr(_modelpool, class_name), name)
                is_property = isinstance(runtime, property) or inspect.isgetsetdescriptor(runtime)
                if name in ("__init__", "__repr__") or is_property:
                    continue
                if isinstance(method, ast.FunctionDef):
                    self.assertEqual(
                        runtime_signature(runtime), signature_of(method), f"{class_name}.{name}"
                    )
                    compared += 1
        self.assertGreater(compared, 25)

    def test_the_arguments_they_name_are_taken(self):
        """Text signatures are text too: what may be passed by name is looked at in a call."""
        with self.assertRaises(modelpool.NoSuchPool):
            modelpool.Pool(name="x", dir="/dev/shm/nowhere", create=False, coordinator_grace=1.0)

    def test_the_version_is_that_of_the_program(self):
        said = subprocess.run([POOLCTL, "--version"], stdout=subprocess.PIPE, text=True, check=True)
        self.assertIn(f" {modelpool.__version__},", said.stdout)

    def test_the_package_says_that_it_is_typed(self):
        functions = [modelpool.free_port]
        functions += [f for n, f in vars(modelpool.Pool).items() if not n.startswith("_")]
        for function in functions:
            signature = inspect.signature(function)
            given = [p.annotation for n, p in signature.parameters.items() if n != "self"]
            self.assertNotIn(inspect.Parameter.empty, [*given, signature.return_annotation])
        self.assertTrue((PACKAGE / "py.typed").exists())


class Rows(PoolTest):
    """_rows.pyi is written from the description of the rows, as JSON is."""

    def stubs(self):
        """{row: {key: type}}"""
        tree = ast.parse((PACKAGE / "_rows.pyi").read_text())
        return {
            node.name: {line.target.id: ast.unparse(line.annotation) for line in node.body}
            for node in tree.body
            if isinstance(node, ast.ClassDef)
        }

    def expect(self, row, name):
        wanted = self.stubs()[name]
        self.assertEqual(list(row), list(wanted), name)
        for key, value in row.items():
            types = wanted[key].split(" | ")
            if value is None:
                self.assertIn("None", types, f"{name}.{key}")
            elif types[0] in self.stubs():
                self.expect(value, types[0])
            else:
                self.assertIsInstance(value, eval(types[0].split("[")[0]), f"{name}.{key}")

    def test_stubs_name_what_is_returned(self):
        self.load_external("m", size_bytes=1, label="gpu0").release()
        lease = self.pool.acquire("m", tag="req-81")
        loading = self.pool.acquire("n")
        waiting = threading.Thread(target=lambda: self.pool.acquire("n").release())
        waiting.start()
        self.wait_for_waiters(1)
        self.expect(self.pool.status(), "StatusRow")
        self.expect(self.pool.backends()[0], "BackendRow")
        self.expect(self.pool.leases()[0], "LeaseRow")
        self.expect(self.pool.waiters()[0], "WaiterRow")
        self.expect(self.pool.workers()[0], "WorkerRow")
        self.expect(self.pool.events()[0], "EventRow")
        loading.ready("127.0.0.1:2", external=True).release()
        waiting.join()
        lease.release()

    def test_a_backend_that_is_being_ended_says_why(self):
        lease = self.load_external("m")
        self.pool.evict("m")  # a drain: it waits for the lease
        self.assertTrue(eventually(lambda: self.pool.backends()[0]["stop"]))
        self.expect(self.pool.backends()[0]["stop"], "StopRow")
        lease.release()


if __name__ == "__main__":
    unittest.main()
