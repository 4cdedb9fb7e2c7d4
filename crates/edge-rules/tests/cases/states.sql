-- CASE, IN, BETWEEN, LIKE, members, arrays, backticks and both kinds of comments.
-- in  s {"from": "line-2", "code": 3, "io": {"in": [1, 2, 3]}}
-- out   {"state": "warn", "last": 3, "mid": [2], "alarm": true}
SELECT CASE code WHEN 1 THEN "ok" WHEN 3 THEN "warn" ELSE "bad" END AS state,
       io->`in`[-1] AS last, /* a slice ends before its second bound */ io->`in`[1:2] AS mid,
       NOT (code IN (1, 2) OR code BETWEEN 5 AND 9) AS alarm -- true here
FROM s WHERE `from` LIKE "line-_"
