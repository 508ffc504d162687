"""The signals that a run collects."""

import signal
import threading

import pytest

from tests.training.conftest import broken, same_weights
from vae.errors import WorkError

pytestmark = pytest.mark.usefixtures("lean")
pytestmark = pytest.mark.usefixtures("lean")
HANDLED = (signal.SIGINT, signal.SIGTERM)


def handlers():
    return [signal.getsignal(number) for number in HANDLED]


def test_signal_handlers_are_put_back_after_a_run(run, data):
    before = handlers()
    run(data, epochs=1)
    assert handlers() == before


def test_signal_handlers_are_put_back_after_a_failure(run, data, make_model):
    before = handlers()
    with pytest.raises(WorkError):
        run(data, broken(make_model()), epochs=1)
    assert handlers() == before


def test_it_also_trains_in_a_thread_which_gets_no_signals(run, data):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(data, epochs=1)))
    thread.start()
    thread.join()
    expected, model = run(data, epochs=1)
    assert results[0][0].history == expected.history
    assert same_weights(results[0][1], model)
