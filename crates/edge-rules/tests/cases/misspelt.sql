-- error unexpected `FORM` at line 3, column 1; did you mean `FROM`?
SELECT device
FORM vibration
