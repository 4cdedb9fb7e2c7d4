-- A ten-second average per device; the window ends at a multiple of ten seconds.
-- in  @1000 host {"device": "a", "cpu": 10.0}
-- in  @2000 host {"device": "b", "cpu": 50.0}
-- in  @9999 host {"device": "a", "cpu": 20.0}
-- tick 10000
-- out {"device": "b", "cpu": 50.0, "n": 1}
-- out {"device": "a", "cpu": 15.0, "n": 2}
SELECT device, avg(cpu) AS cpu, count(*) AS n FROM host
GROUP BY device, TUMBLINGWINDOW(ss, 10) HAVING cpu > 12 ORDER BY cpu DESC LIMIT 5
