r"""wsgi_app for uWSGI with threads: a reload waits for requests instead of stopping them half-way.

    uwsgi --plugin python3 --http-socket 127.0.0.1:8000 --master --processes 4 --threads 2 \
        --die-on-term --pythonpath tools/examples --module uwsgi_app

uWSGI 2.0 takes a reload's SIGHUP in whatever its first thread is doing, and waits right there for
the other threads: for ever if the first holds the interpreter's lock, and until a timeout if they
wait for a model that it was loading. So SIGHUP is held back while that thread has a request, and
let in at its end by a call that gives up the lock.
"""

import ctypes
import signal

import wsgi_app

LIBC = ctypes.CDLL(None)
ONLY_SIGHUP = ctypes.create_string_buffer(128)  # a sigset_t
LIBC.sigemptyset(ONLY_SIGHUP)
LIBC.sigaddset(ONLY_SIGHUP, signal.SIGHUP)


def application(environ, start_response):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    answer = wsgi_app.application(environ, start_response)
    # In other threads than the first uWSGI blocks all signals.
    return answer if signal.SIGHUP in before else HeldBack(answer)


class HeldBack:
    def __init__(self, answer):
        self._answer = answer

    def __iter__(self):
        return iter(self._answer)

    def close(self):
        try:
            getattr(self._answer, "close", lambda: None)()
        finally:
            LIBC.pthread_sigmask(signal.SIG_UNBLOCK, ONLY_SIGHUP, None)
