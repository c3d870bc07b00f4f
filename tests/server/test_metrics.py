from concurrent.futures import ThreadPoolExecutor

from server.metrics import BUCKETS, Metrics


def value(text, name):
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + " "))


def test_buckets_are_cumulative_and_include_their_bound():
    metrics = Metrics()
    for seconds in (0.001, 0.002, 0.3, 99.0):
        metrics.observe(seconds)
    text = metrics.render(0)
    # le="0.001" holds 0.001 itself; 0.0025 adds 0.002; 0.5 adds 0.3; only +Inf holds 99.
    assert value(text, 'polyseek_search_seconds_bucket{le="0.001"}') == 1
    assert value(text, 'polyseek_search_seconds_bucket{le="0.0025"}') == 2
    assert value(text, 'polyseek_search_seconds_bucket{le="0.25"}') == 2
    assert value(text, 'polyseek_search_seconds_bucket{le="0.5"}') == 3
    assert value(text, 'polyseek_search_seconds_bucket{le="10.0"}') == 3
    assert value(text, 'polyseek_search_seconds_bucket{le="+Inf"}') == 4
    assert value(text, "polyseek_search_seconds_count") == 4
    assert abs(value(text, "polyseek_search_seconds_sum") - 99.303) < 1e-9


def test_every_metric_has_help_type_and_a_last_line_end():
    metrics = Metrics()
    metrics.count("search", 200)
    text = metrics.render(3)
    assert text.endswith("\n")
    for name, kind in (("requests_total", "counter"), ("search_seconds", "histogram"), ("documents", "gauge")):
        assert f"# HELP polyseek_{name} " in text
        assert f"# TYPE polyseek_{name} {kind}\n" in text
    assert sum(line.startswith("polyseek_search_seconds_bucket") for line in text.splitlines()) == len(BUCKETS) + 1


def test_threads_lose_no_count():
    metrics = Metrics()
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4000):
            pool.submit(metrics.count, "search", 200)
            pool.submit(metrics.observe, 0.5)
    text = metrics.render(0)
    assert value(text, 'polyseek_requests_total{endpoint="search",status="200"}') == 4000
    assert value(text, "polyseek_search_seconds_sum") == 2000
