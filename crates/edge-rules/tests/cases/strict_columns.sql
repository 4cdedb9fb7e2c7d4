-- Declared columns hide others; a strict stream leaves out messages that do not fit.
-- stream CREATE STREAM meter (kwh FLOAT, phase BIGINT DEFAULT 1) WITH (TYPE="memory", STRICT_VALIDATION="true")
-- in meter {"kwh": 3, "other": true}
-- out {"kwh": 3.0, "phase": 1}
-- in meter {"kwh": "three"}
SELECT * FROM meter
