import os
import threading
import time

import pytest

from index.parallel import share


def test_results_keep_the_order_of_the_items():
    assert share(range(100), lambda x: x * x) == [x * x for x in range(100)]
    assert share([], str) == []


def test_work_may_share_out_work():
    assert share(range(8), lambda x: share(range(x), str)) == [[str(y) for y in range(x)] for x in range(8)]


def test_errors_reach_the_caller_and_the_next_call_works():
    with pytest.raises(ZeroDivisionError):
        share([1, 0, 2], lambda x: 1 / x)
    assert share([1, 2], lambda x: 1 / x) == [1, 0.5]


def test_of_several_errors_the_first_is_raised_and_the_others_are_worked_on():
    seen = []

    def work(x):
        seen.append(x)
        raise ValueError(x)

    with pytest.raises(ValueError, match=r"^0$"):
        share(range(10), work)
    assert sorted(seen) == list(range(10))


def test_an_interrupt_ends_the_work():
    begun = []

    def work(x):
        begun.append(x)
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        share(range(1000), work)
    assert len(begun) < 100
    assert share([1, 2], str) == ["1", "2"]


def test_many_threads_share_at_once():
    found = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: share(range(50), lambda x: x + n)})) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: list(range(n, n + 50)) for n in range(8)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    share([1, 2], str)
    child = os.fork()
    if child == 0:
        os._exit(0 if share([1, 2], str) == ["1", "2"] else 1)
    assert os.waitpid(child, 0)[1] == 0
