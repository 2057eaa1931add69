"""test_torture.py while Debian's Prometheus scrapes: no total ever falls, no series stands twice.

MODELPOOL_TEST_TORTURE_S is how long.
"""

import unittest

import test_torture
from prometheus_server import start_prometheus

TOTALS = '{__name__=~"modelpool_.*_(total|count|sum|bucket)"}'


class Scraped(test_torture.Torture):
    def setUp(self):
        super().setUp()
        self.prometheus = None

    def look_after_master(self):
        if self.prometheus is None:
            self.prometheus = start_prometheus(self, self.port, test_torture.KEY)
        super().look_after_master()

    def check_that_it_happened(self):
        super().check_that_it_happened()
        query = self.prometheus.query
        # Where everybody was killed nobody answered; in the rest of the time it was scraped.
        for job in ("modelpool", "models"):
            scrapes = query(f'sum_over_time(up{{job="{job}"}}[1h])')
            self.assertGreater(float(scrapes[0]["value"][1]), test_torture.SECONDS / 4, job)
        totals = query(f"group by (__name__) (last_over_time({TOTALS}[1h]))")
        names = {one["metric"]["__name__"] for one in totals}
        moved = set()
        for name in names:
            self.assertEqual(query(f"resets({name}[1h]) > 0"), [], name)
            moved |= {name} if query(f"increase({name}[1h]) > 0") else set()
        self.assertGreater(len(moved), len(names) // 2, names - moved)
        self.assertTrue(query("increase(modelpool_worker_deaths_total[1h]) > 0"))
        self.assertEqual(self.prometheus.complaints(), [])


if __name__ == "__main__":
    unittest.main()
