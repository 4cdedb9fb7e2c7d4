-- A threshold with a label.
-- in  vibration {"device": "press-4", "rms": 7.1}
-- out           {"device": "press-4", "level": "high"}
-- in  vibration {"device": "press-4", "rms": 2}
-- in  vibration {"device": "press-5"}
SELECT device, 'high' AS level FROM vibration WHERE rms > 6.0
