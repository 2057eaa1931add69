"""What the example servers share: pool.toml, how a model is loaded, what an error answers."""

import dataclasses
import http.client
import json
import math
import os
import pathlib
import re
import shlex
import tomllib

import modelpool

HERE = pathlib.Path(__file__).parent
PATHS = ("/v1/chat/completions", "/v1/audio/transcriptions")
WAIT = "50s"  # for a place, or for somebody else's load
FORM_MODEL = re.compile(rb'name="model"\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]*)\r\n')


@dataclasses.dataclass(frozen=True)
class Model:
    """How a model is started, by its table in pool.toml. What limits it is coordinatord's."""

    name: str
    command: list[str]
    ready: str = "http:/health"
    cwd: pathlib.Path | None = None
    log: str | None = None

    def load(self, ticket):
        """For Pool.lease: starts the backend and returns its address when it answers."""
        port = modelpool.free_port()
        command = [word.replace("{port}", str(port)) for word in self.command]
        ticket.spawn(command, cwd=self.cwd, stdout=self.log)
        return ticket.wait_ready(f"127.0.0.1:{port}", self.ready)


def read_models(path=None):
    path = pathlib.Path(path or os.environ.get("POOL_TOML") or HERE / "pool.toml").resolve()
    with open(path, "rb") as file:
        tables = tomllib.load(file)["models"]
    return {name: read_model(name, table, path.parent) for name, table in tables.items()}


def read_model(name, table, folder):
    command = table["command"]
    return Model(
        name,
        shlex.split(command) if isinstance(command, str) else command,
        table.get("ready", "GET /health").replace("GET ", "http:"),
        folder / table["cwd"] if "cwd" in table else None,
        table.get("log"),
    )


class Refused(Exception):
    """An answer other than the model's."""

    def __init__(self, status, text, retry_after=None):
        super().__init__(text)
        self.status = status
        self.headers = [("Content-Type", "application/json")]
        if retry_after is not None:
            self.headers.append(("Retry-After", str(max(1, math.ceil(retry_after)))))
        self.body = json.dumps({"error": {"message": text, "code": status}}).encode()


def refused(error):
    """The Refused that tells a client about this error; the text is for its log, too."""
    if isinstance(error, Refused):
        return error
    text = str(error)
    if isinstance(error, modelpool.Timeout):
        return Refused(504, text)
    if isinstance(error, (modelpool.LeaseLost, OSError, http.client.HTTPException)):
        return Refused(502, f"the model's backend failed: {type(error).__name__}: {text}")
    if isinstance(error, modelpool.Error) and not isinstance(error, modelpool.Invalid):
        # QueueFull, CoolingDown, LoadFailed, NoCoordinator, AllPinned...: later it may work.
        return Refused(503, text, retry_after=error.retry_after or 1)
    return Refused(500, f"{type(error).__name__}: {text}")


def kind_of(content_type):
    """A request's Content-Type as its backend is told: a form, as for audio, or JSON."""
    is_form = (content_type or "").startswith("multipart/form-data")
    return content_type if is_form else "application/json"


def model_of(models, kind, body):
    """The Model that a request asks for."""
    try:
        if kind == "application/json":
            name = json.loads(body)["model"]
        else:
            name = FORM_MODEL.search(body)[1].decode()
    except (ValueError, KeyError, TypeError):
        raise Refused(400, 'the body is no JSON object or form with a "model"') from None
    if not isinstance(name, str) or name not in models:
        raise Refused(404, f"there is no model {name!r}; GET /v1/models lists them")
    return models[name]


def list_of(models):
    data = [{"id": name, "object": "model", "owned_by": "modelpool"} for name in models]
    return json.dumps({"object": "list", "data": data}).encode()


def no_such_path():
    return Refused(404, f"there is only /v1/models, {' and '.join(PATHS)}")


def tag_of(request_id):
    """What `poolctl leases` and events show for a request: its X-Request-Id, else a random one."""
    kept = re.sub(r"[^!-~]", "", request_id or "")[:31]
    return kept or f"req-{os.urandom(6).hex()}"
