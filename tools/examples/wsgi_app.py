"""An OpenAI-style front of local models for any WSGI server.

    gunicorn --chdir tools/examples --workers 4 wsgi_app:application

Each request holds a lease for as long as its answer takes; the first request that needs a model loads it.
"""

import contextlib
import http.client

import modelpool
import models

MODELS = models.read_models()
POOL = modelpool.Pool()  # in a forked worker it attaches anew by itself


def application(environ, start_response):
    tag = models.tag_of(environ.get("HTTP_X_REQUEST_ID"))
    try:
        match environ["REQUEST_METHOD"], environ["PATH_INFO"]:
            case "GET", "/v1/models":
                start_response("200 OK", [("Content-Type", "application/json")])
                return [models.list_of(MODELS)]
            case "POST", path if path in models.PATHS:
                body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                kind = models.kind_of(environ.get("CONTENT_TYPE"))
                answer = Answer(models.model_of(MODELS, kind, body), path, kind, body, tag)
                start_response(answer.status, [*answer.headers, ("X-Request-Id", tag)])
                return answer
            case _:
                raise models.no_such_path()
    except Exception as error:
        refused = models.refused(error)
        reason = http.client.responses[refused.status]
        start_response(f"{refused.status} {reason}", [*refused.headers, ("X-Request-Id", tag)])
        return [refused.body]


class Answer:
    """A backend's answer, chunk by chunk. The server calls close(), also when a client has left."""

    def __init__(self, model, path, kind, body, tag):
        with contextlib.ExitStack() as stack:
            self._lease = stack.enter_context(
                POOL.lease(model.name, load=model.load, timeout=models.WAIT, tag=tag)
            )
            connection = http.client.HTTPConnection(self._lease.address)
            stack.callback(connection.close)
            connection.request("POST", path, body, {"Content-Type": kind})
            self._response = connection.getresponse()
            self._stack = stack.pop_all()
        self.status = f"{self._response.status} {self._response.reason}"
        kept = ("content-type", "content-length")
        self.headers = [(n, v) for n, v in self._response.getheaders() if n.lower() in kept]

    def __iter__(self):
        return self

    def __next__(self):
        chunk = self._response.read1(65536)
        if not chunk:
            raise StopIteration
        self._lease.progress()
        return chunk

    def close(self):
        self._stack.close()
